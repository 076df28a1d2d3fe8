package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/traffic"
)

// failure is how the proxy itself fails a call.
type failure struct {
	reason  proxy.Reason
	code    codes.Code
	service string   // in the metrics; empty: hello
	says    []string // parts of the message
}

// mustFail checks that a call, the only one so far, has failed as it should, and is counted so.
func (p *lbproxy) mustFail(err error, want failure) {
	p.t.Helper()
	if got := status.Code(err); got != want.code {
		p.t.Errorf("the call ends by %v, code %s, want %s", err, got, want.code)
	}
	if got := reasonOf(err); got != string(want.reason) {
		p.t.Errorf("trailer %s = %q, want %q", proxy.ErrorTrailer, got, want.reason)
	}
	for _, part := range want.says {
		if !strings.Contains(fmt.Sprint(err), part) {
			p.t.Errorf("message %q does not say %q", err, part)
		}
	}
	p.mustCount(want)
}

func (p *lbproxy) mustCount(want failure) {
	p.t.Helper()
	service := want.service
	if service == "" {
		service = "hello"
	}
	calls := fmt.Sprintf(`lbproxy_calls_total{code=%q,origin="proxy",service=%q}`, want.code, service)
	errors := fmt.Sprintf(`lbproxy_errors_total{reason=%q,service=%q}`, want.reason, service)
	await(p.t, fmt.Sprintf("%s and %s in the metrics", calls, errors), func() bool {
		m := p.metrics()
		return m[calls] == 1 && m[errors] == 1
	})
}

func TestNoRoute(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		p := w.startProxy()
		_, err := sayHello(within(t), p.dial(""))
		p.mustFail(err, failure{
			proxy.NoRoute, codes.Unimplemented, proxy.UnknownServiceLabel,
			[]string{"/helloworld.Greeter/SayHello", p.Addrs()[0], "lbproxy-service", "no route matches", ":authority"},
		})
	})
}

func TestUnknownServiceIsRegistered(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		p := w.startProxy()
		cc := p.dial("hello")
		_, err := sayHello(within(t), cc)
		p.mustFail(err, failure{
			proxy.UnknownService, codes.Unavailable, proxy.UnknownServiceLabel,
			[]string{`"hello" is unknown`, "nothing has been registered"},
		})

		in := w.startInstance("hello", "", 1)
		await(t, "answer of a service that is known by now", func() bool {
			addr, err := sayHello(within(t), cc)
			return err == nil && addr == in.addr
		})
	})
}

func TestDiscoveryUnavailable(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		w.on("127.0.0.1:1")
		for _, c := range []struct {
			name, service string
			change        func(*configs.Config)
		}{
			{"service on demand", proxy.UnknownServiceLabel, func(*configs.Config) {}},
			{"listed service", "hello", listedAs("hello", func(s *traffic.Service) { s.WaitTimeout = 50 * time.Millisecond })},
		} {
			t.Run(c.name, func(t *testing.T) {
				p := w.startProxy(c.change)
				_, err := sayHello(within(t), p.dial("hello"))
				p.mustFail(err, failure{
					proxy.DiscoveryUnavailable, codes.Unavailable, c.service,
					[]string{`service "hello"`, "the registry has not answered within", "127.0.0.1:1: connect: connection refused", "/readyz"},
				})
			})
		}
	})
}

func TestNoInstances(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		for _, c := range []struct {
			name  string
			leave func(*instance) // takes the instance out
			md    []string
			says  []string
		}{
			{"deregistered", (*instance).deregister, nil, []string{`service "hello" has no instances`, "none is registered now"}},
			{"drained", func(in *instance) { in.setWeight(0) }, nil, []string{`service "hello" takes no calls`, "all its instances (1) are drained"}},
			{"of another version", func(*instance) {}, []string{"lbproxy-version", "7"}, []string{`service "hello" has no instances of version "7"`}},
			{
				"drained of this version", func(in *instance) { in.setWeight(0) },
				[]string{"lbproxy-version", "1.0.0"},
				[]string{`all its instances of version "1.0.0" (1) are drained`},
			},
		} {
			t.Run(c.name, func(t *testing.T) {
				w := newWorld(t, w.engine)
				in := w.startInstance("hello", "1.0.0", 1)
				p := w.startProxy(listed("hello"))
				p.awaitReady("hello", 1)
				c.leave(in)
				await(t, "instance that takes no calls", func() bool {
					instances := p.service("hello").Instances
					return len(c.md) > 0 && in.Status().Weight > 0 || len(instances) == 0 || instances[0].Weight == 0
				})
				_, err := sayHello(metadata.NewOutgoingContext(within(t), metadata.Pairs(c.md...)), p.dial("hello"))
				p.mustFail(err, failure{reason: proxy.NoInstances, code: codes.Unavailable, says: c.says})
			})
		}
	})
}

// What is registered but cannot be used is not unknown: the call says what is wrong with it.
func TestNoInstancesButPoisonedOnes(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		etcd := etcdtest.Client(t, w.etcd)
		for _, addr := range []string{"127.0.0.1:1", "127.0.0.1:2"} {
			if _, err := etcd.Put(t.Context(), w.root+"/hello/"+addr, `{"weight":"ten"}`); err != nil {
				t.Fatal(err)
			}
		}
		p := w.startProxy()
		_, err := sayHello(within(t), p.dial("hello"))
		p.mustFail(err, failure{
			reason: proxy.NoInstances, code: codes.Unavailable,
			says: []string{`service "hello" has no instances`, w.root + "/hello/127.0.0.1:1", "weight", "and 1 more", "lbproxy services hello"},
		})
	})
}

func TestNoReadyEndpoint(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		left := startBackend(t)
		left.kill()
		for _, c := range []struct{ name, addr, says string }{
			{"nobody listens", left.addr, "connection refused"},
			{"something else listens", listenRaw(t, speakSMTP), "TCP connects but HTTP/2 does not"},
			{"it closes", listenRaw(t, func(net.Conn) {}), "TCP connects but HTTP/2 does not"},
		} {
			t.Run(c.name, func(t *testing.T) {
				w := newWorld(t, w.engine)
				w.startRegistrar(w.client, "hello", discovery.Instance{Addr: c.addr, Weight: 1})
				p := w.startProxy(listedAs("hello", func(s *traffic.Service) { s.WaitTimeout = 300 * time.Millisecond }))
				await(t, "failed instance", func() bool {
					instances := p.service("hello").Instances
					return len(instances) == 1 && instances[0].State == "failed"
				})
				start := time.Now()
				_, err := sayHello(within(t), p.dial("hello"))
				if waited := time.Since(start); waited < 300*time.Millisecond {
					t.Errorf("the call has waited for %s only", waited)
				}
				p.mustFail(err, failure{
					reason: proxy.NoReadyEndpoint, code: codes.Unavailable,
					says: []string{`service "hello"`, "any of its 1 instances within 300ms", c.addr, c.says},
				})
			})
		}
	})
}

func speakSMTP(c net.Conn) {
	io.WriteString(c, "220 mail.example ESMTP\r\n")
	io.Copy(io.Discard, c)
}

func TestBackendLost(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		t.Run("before its answer", func(t *testing.T) {
			w := newWorld(t, w.engine)
			running := make(chan struct{})
			in := w.startInstance("hello", "", 1, onHello(func(ctx context.Context) error {
				close(running)
				<-ctx.Done()
				return ctx.Err()
			}))
			p := w.startProxy(listed("hello"))
			go func() { // ends when the call runs
				<-running
				in.kill()
			}()
			_, err := sayHello(within(t), p.dial("hello"))
			p.mustFail(err, failure{
				reason: proxy.BackendLost, code: codes.Unavailable,
				says: []string{`service "hello"`, "lost instance " + in.addr},
			})
		})
		t.Run("in mid-stream", func(t *testing.T) {
			w := newWorld(t, w.engine)
			in := w.startInstance("hello", "", 1)
			p := w.startProxy(listed("hello"))
			c := p.converse(within(t), "hello")
			p.mustAsk(c)
			in.kill()
			p.mustFail(c.listen(), failure{
				reason: proxy.BackendLost, code: codes.Unavailable,
				says: []string{`service "hello"`, "lost instance " + in.addr},
			})
		})
	})
}

func TestBackendProtocol(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		for _, c := range []struct {
			name string
			rude func(f *http2.Framer, stream uint32)
			says string
		}{
			{"PROTOCOL_ERROR", func(f *http2.Framer, stream uint32) { f.WriteRSTStream(stream, http2.ErrCodeProtocol) }, "PROTOCOL_ERROR"},
			{"no status", func(f *http2.Framer, stream uint32) {
				writeHeaders(f, stream, false, ":status", "200", "content-type", "application/grpc")
				f.WriteData(stream, true, nil)
			}, ""},
			{"message before headers", func(f *http2.Framer, stream uint32) { f.WriteData(stream, true, []byte{0, 0, 0, 0, 0}) }, ""},
		} {
			t.Run(c.name, func(t *testing.T) {
				w := newWorld(t, w.engine)
				addr := listenRaw(t, rude(c.rude))
				w.startRegistrar(w.client, "hello", discovery.Instance{Addr: addr, Weight: 1})
				p := w.startProxy(listed("hello"))
				_, err := sayHello(within(t), p.dial("hello"))
				p.mustFail(err, failure{
					reason: proxy.BackendProtocol, code: codes.Internal,
					says: []string{`service "hello"`, "instance " + addr + " broke the protocol", c.says},
				})
			})
		}
	})
}

func TestLimit(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		w.startInstance("first", "", 1)
		w.startInstance("listed", "", 1)
		p := w.startProxy(listed("listed"), func(cfg *configs.Config) { cfg.Discovery.MaxOnDemand = 1 })
		greet(t, p.dial("first"), 1)
		_, err := sayHello(within(t), p.dial("second"))
		p.mustFail(err, failure{
			proxy.Limit, codes.ResourceExhausted, proxy.UnknownServiceLabel,
			[]string{`service "second"`, "1 services are watched on demand already", "discovery.max_on_demand"},
		})
		greet(t, p.dial("first"), 1)
		greet(t, p.dial("listed"), 1)
	})
}

// grpc-go's callers fail their calls by themselves when the deadline runs out, so this one is none.
func TestDeadlineInsideTheProxy(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		left := startBackend(t)
		left.kill()
		w.register(left, "hello", "", 1)
		p := w.startProxy(listedAs("hello", func(s *traffic.Service) { s.WaitTimeout = time.Minute }))
		start := time.Now()
		_, err := post(within(t), p.Addrs()[0], "/helloworld.Greeter/SayHello", metadata.Pairs("grpc-timeout", "200m"), nil)
		if took := time.Since(start); took < 200*time.Millisecond || took > patience/2 {
			t.Errorf("the call ends after %s, by %v", took, err)
		}
		p.mustCount(failure{reason: proxy.Deadline, code: codes.DeadlineExceeded})
	})
}
