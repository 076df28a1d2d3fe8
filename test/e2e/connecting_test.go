package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	hello "google.golang.org/grpc/examples/helloworld/helloworld"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registrar"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/traffic"
)

// Stories of connecting to backends that are slow, of no use, or not there.

// A server that takes its time to greet is connected to once, and waited for.
func TestBackendThatIsSlowToGreet(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		var attempts atomic.Int32
		told := make(chan struct{})
		greet := sync.OnceFunc(func() { close(told) })
		defer greet()
		addr := listenRaw(t, func(c net.Conn) {
			attempts.Add(1)
			<-told
			http2.NewFramer(c, c).WriteSettings()
			io.Copy(io.Discard, c)
		})
		w.startRegistrar(w.client, "hello", discovery.Instance{Addr: addr, Weight: 1})
		p := w.startProxy(listed("hello"), func(cfg *configs.Config) { cfg.Relay.Workers = 1 })
		await(t, "word that it is slow", func() bool {
			instances := p.service("hello").Instances
			return len(instances) == 1 && strings.Contains(instances[0].LastError, "it has not greeted (SETTINGS) within 500ms")
		})
		greet()
		p.awaitReady("hello", 1)
		if n := attempts.Load(); n != 1 {
			t.Errorf("%d connections until one is of use", n)
		}
	})
}

// A server that greets and closes gets ever fewer connections, and the log a few lines.
func TestBackendThatGreetsAndCloses(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		var attempts atomic.Int32
		var last atomic.Int64
		pause := make(chan int32, 1) // how many there were when there was a pause
		addr := listenRaw(t, func(c net.Conn) {
			n, now := attempts.Add(1), time.Now().UnixNano()
			if before := last.Swap(now); n > 2 && now-before > int64(500*time.Millisecond) {
				select {
				case pause <- n:
				default: // there was one before
				}
			}
			http2.NewFramer(c, c).WriteSettings()
		})
		w.startRegistrar(w.client, "hello", discovery.Instance{Addr: addr, Weight: 1})
		p := w.startProxy(listed("hello"), func(cfg *configs.Config) { cfg.Relay.Workers = 1 })
		await(t, "a pause between two connections", func() bool { return len(pause) > 0 })
		if n := <-pause; n > 15 {
			t.Errorf("%d connections before there is a pause", n)
		}
		if n := p.logs.FilterMessageSnippet("endpoint").Len(); n > 20 {
			t.Errorf("%d lines until there is a pause", n)
		}
	})
}

// What an instance does that is no gRPC server is told.
func TestWhatAnswersAtAnInstance(t *testing.T) {
	web := &http.Server{ReadHeaderTimeout: time.Minute}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // ends by Close
		defer close(ended)
		web.Serve(l)
	}()
	t.Cleanup(func() {
		web.Close()
		<-ended
	})
	after := func(first string) func(net.Conn) {
		return func(c net.Conn) {
			io.ReadFull(c, make([]byte, len(http2.ClientPreface)))
			io.WriteString(c, first)
		}
	}
	onEveryEngine(t, func(t *testing.T, w *world) {
		for _, c := range []struct{ name, addr, says string }{
			{"TLS", listenRaw(t, after("\x15\x03\x03\x00\x02\x02\x46")), "it answers in TLS"},
			{"HTTP/1.1", l.Addr().String(), `it answers in HTTP/1, "HTTP/1.1 `},
			{"SMTP", listenRaw(t, speakSMTP), `it answers with "220 mail.example ESMTP`},
			{"nobody", listenRaw(t, after("")), "it closed before it greeted (SETTINGS)"},
			{"somebody silent", listenRaw(t, func(c net.Conn) { io.Copy(io.Discard, c) }), "it has not greeted (SETTINGS) within 500ms"},
		} {
			t.Run(c.name, func(t *testing.T) {
				w := newWorld(t, w.engine)
				w.startRegistrar(w.client, "hello", discovery.Instance{Addr: c.addr, Weight: 1})
				p := w.startProxy(listed("hello"))
				_, err := sayHello(within(t), p.dial("hello"))
				p.mustFail(err, failure{
					reason: proxy.NoReadyEndpoint, code: codes.Unavailable,
					says: []string{c.addr, "TCP connects but HTTP/2 does not", c.says},
				})
			})
		}
	})
}

// middlebox forwards connections, and may let both ends believe that it does.
type middlebox struct {
	addr string
	open atomic.Int32                // connections
	mute atomic.Pointer[atomic.Bool] // of those that come now
}

func startMiddlebox(t *testing.T, target string) *middlebox {
	m := &middlebox{}
	m.mute.Store(new(atomic.Bool))
	m.addr = listenRaw(t, func(c net.Conn) {
		m.open.Add(1)
		defer m.open.Add(-1)
		server, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		defer server.Close()
		mute := m.mute.Load()
		pass := func(to, from net.Conn) {
			defer to.Close()
			for buf := make([]byte, 4096); ; {
				n, err := from.Read(buf)
				if err != nil {
					return
				}
				if !mute.Load() {
					to.Write(buf[:n])
				}
			}
		}
		back := make(chan struct{})
		go func() { // ends with either end
			defer close(back)
			pass(c, server)
		}()
		pass(server, c)
		<-back
	})
	return m
}

// forget drops what comes on the connections that there are, and acknowledges it.
func (m *middlebox) forget() { m.mute.Swap(new(atomic.Bool)).Store(true) }

// An instance that is registered anew is connected to anew, as the old connection may lead nowhere.
func TestRenewedRegistrationRenewsConnections(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		end  func(*testing.T, *registrar.Registrar, *etcd.Client)
	}{
		{"after the earlier one has ended", func(t *testing.T, r *registrar.Registrar, _ *etcd.Client) {
			if err := r.Stop(within(t)); err != nil {
				t.Fatal(err)
			}
		}},
		{"in the place of the earlier one", func(_ *testing.T, _ *registrar.Registrar, c *etcd.Client) { c.Close() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			onEveryEngine(t, func(t *testing.T, w *world) {
				between := startMiddlebox(t, startBackend(t).addr)
				in := discovery.Instance{Addr: between.addr, Weight: 1}
				client := w.newClient()
				first := w.startRegistrar(client, "hello", in)
				p := w.startProxy(listed("hello"))
				p.awaitReady("hello", 1)
				cc := p.dial("hello")
				greetOnce := func() error {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					_, err := sayHello(ctx, cc)
					return err
				}
				if err := greetOnce(); err != nil {
					t.Fatal(err)
				}
				open := between.open.Load()
				between.forget()
				if err := greetOnce(); status.Code(err) != codes.DeadlineExceeded {
					t.Fatalf("a call over a connection that leads nowhere ends by %v", err)
				}
				c.end(t, first, client)
				w.startRegistrar(w.newClient(), "hello", in)
				await(t, "a call", func() bool { return greetOnce() == nil })
				await(t, "the old connections to end", func() bool { return between.open.Load() <= open })
			})
		})
	}
}

// A call that runs when its instance is registered anew goes on where it is.
func TestRenewedRegistrationKeepsCalls(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		b := startBackend(t)
		between := startMiddlebox(t, b.addr)
		in := discovery.Instance{Addr: between.addr, Weight: 1}
		first := w.startRegistrar(w.newClient(), "hello", in)
		p := w.startProxy(listed("hello"), func(cfg *configs.Config) { cfg.Relay.Workers = 1 })
		p.awaitReady("hello", 1)
		cc := p.dial("hello")
		stream, err := cc.NewStream(within(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Any/Converse")
		if err != nil {
			t.Fatal(err)
		}
		converse := func() {
			t.Helper()
			if err := stream.SendMsg(&hello.HelloRequest{}); err != nil {
				t.Fatal(err)
			}
			if err := stream.RecvMsg(&hello.HelloReply{}); err != nil {
				t.Fatal(err)
			}
		}
		converse()
		if err := first.Stop(within(t)); err != nil {
			t.Fatal(err)
		}
		w.startRegistrar(w.newClient(), "hello", in)
		await(t, "another connection", func() bool { return between.open.Load() == 2 })
		greet(t, cc, 5)
		converse()
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(&hello.HelloReply{}); err != io.EOF {
			t.Errorf("the call ends by %v", err)
		}
		await(t, "the old connection to end", func() bool { return between.open.Load() == 1 })
	})
}

// A server that finds the PINGs too many gets fewer, and the status says so.
func TestTooManyPings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, engine{name: configs.EngineRelay})
	w.startInstance("hello", "", 1, onHello(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))
	p := w.startProxy(listedAs("hello", func(s *traffic.Service) {
		s.Keepalive = traffic.Keepalive{Time: 200 * time.Millisecond, Timeout: patience}
	}), func(cfg *configs.Config) { cfg.Relay.Workers = 1 })
	p.awaitReady("hello", 1)
	cc := p.dial("hello")
	var lasted [2]time.Duration
	for i := range lasted {
		began := time.Now()
		_, err := sayHello(within(t), cc)
		lasted[i] = time.Since(began)
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), `GOAWAY ENHANCE_YOUR_CALM "too_many_pings"`) {
			t.Fatalf("a quiet call ends by %v", err)
		}
	}
	if got := p.service("hello").Instances[0].LastError; !strings.Contains(got, "asked by PINGs every 800ms") {
		t.Errorf("last error = %q", got)
	}
	if lasted[1] < lasted[0]+400*time.Millisecond {
		t.Errorf("quiet calls last %s and %s, want the second to last longer", lasted[0], lasted[1])
	}
}
