package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/proxy"
)

// Messages of any size cross, in both directions.
func TestLargeMessages(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		const size = 64 << 20
		question, answer := bytes.Repeat([]byte("question"), size/8), bytes.Repeat([]byte("answer.."), size/8)
		s := newStage(t, w)
		caller, backend := s.perform(t, exchange{
			caller: func(p *party) { p.send(string(question)) },
			backend: func(p *party) error {
				p.recvAll()
				p.send(string(answer))
				return nil
			},
		}, s.proxied)
		mustSee(t, "the caller", caller, "message "+shown(answer), "no more messages: EOF")
		mustSee(t, "the backend", backend, "message "+shown(question), "no more messages: EOF")
	})
}

// A backend's status is the backend's, whichever it is: the proxy passes it, and counts it as the backend's.
func TestStatusOfTheBackend(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		s := newStage(t, w)
		want := map[string]float64{}
		for code := codes.OK; code <= codes.Unauthenticated; code++ {
			caller, _ := s.perform(t, exchange{backend: func(*party) error {
				return status.Error(code, "the backend's own")
			}}, s.proxied)
			if code != codes.OK {
				mustSee(t, "the caller", caller, fmt.Sprintf("no more messages: rpc error: code = %s desc = the backend's own", code))
			}
			want[fmt.Sprintf(`lbproxy_calls_total{code=%q,origin="backend",service="hello"}`, code)] = 1
			want[fmt.Sprintf(`lbproxy_endpoint_calls_total{code=%q,endpoint=%q,service="hello"}`, code, s.backend.addr)] = 1
		}
		await(t, "calls in the metrics", func() bool { return len(counted(s.proxy)) == len(want) })
		if diff := cmp.Diff(counted(s.proxy), want); diff != "" {
			t.Errorf("calls and errors in the metrics (-got +want):\n%s", diff)
		}
	})
}

// A server that speaks no gRPC makes its callers make up a code: the same one with a proxy as without.
func TestAnswersThatAreNotGRPC(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		var code atomic.Int64
		addr := startHTTP(t, func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("content-type", "text/html")
			rw.WriteHeader(int(code.Load()))
			io.WriteString(rw, "<h1>Not what you think</h1>")
		})
		w.startRegistrar(w.client, "hello", discovery.Instance{Addr: addr, Weight: 1})
		p := w.startProxy(listed("hello"))
		direct, proxied := dial(t, "passthrough:///"+addr, grpc.WithAuthority("hello")), p.dial("hello")
		for _, c := range []int{200, 301, 400, 401, 403, 404, 429, 500, 502, 503, 504} {
			code.Store(int64(c))
			_, want := sayHello(within(t), direct)
			_, err := sayHello(within(t), proxied)
			if status.Code(err) != status.Code(want) {
				t.Errorf("HTTP status %d: the call ends by %v, without a proxy by %v", c, err, want)
			}
		}
	})
}

// Metadata that the backend says is too large is refused with the code that the caller would have without a proxy.
func TestMetadataTooLargeForTheBackend(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		in := w.startInstance("hello", "", 1, func(b *backend) { b.options = append(b.options, grpc.MaxHeaderListSize(2000)) })
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 1)
		direct, proxied := dial(t, "passthrough:///"+in.addr, grpc.WithAuthority("hello")), p.dial("hello")
		ctx := metadata.NewOutgoingContext(within(t), metadata.Pairs("long", strings.Repeat("x", 4000)))
		for _, way := range []*grpc.ClientConn{direct, proxied} { // the first calls tell the limit
			greet(t, way, 1)
		}
		_, want := sayHello(ctx, direct)
		_, err := sayHello(ctx, proxied)
		if status.Code(err) != status.Code(want) || !strings.Contains(fmt.Sprint(err), "eader list size") {
			t.Errorf("the call ends by %v, without a proxy by %v", err, want)
		}
		greet(t, proxied, 1)
	})
}

// Metadata that the caller says is too large for it is refused with the code that it would have without a proxy.
func TestMetadataTooLargeForTheCaller(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		long := metadata.Pairs("long", strings.Repeat("x", 4000))
		for name, add := range map[string]func(context.Context) error{
			"header":  func(ctx context.Context) error { return grpc.SetHeader(ctx, long) },
			"trailer": func(ctx context.Context) error { return grpc.SetTrailer(ctx, long) },
		} {
			in := w.startInstance(name, "", 1, onHello(func(ctx context.Context) error {
				if md, _ := metadata.FromIncomingContext(ctx); len(md["long"]) == 0 {
					return nil
				}
				return add(ctx)
			}))
			p := w.startProxy(listed(name))
			p.awaitReady(name, 1)
			takes := grpc.WithMaxHeaderListSize(2000)
			direct := dial(t, "passthrough:///"+in.addr, grpc.WithAuthority(name), takes)
			proxied := dial(t, "passthrough:///"+p.Addrs()[0], grpc.WithAuthority(name), takes)
			ctx := metadata.AppendToOutgoingContext(within(t), "long", "please")
			_, want := sayHello(ctx, direct)
			_, err := sayHello(ctx, proxied)
			if want == nil || status.Code(err) != status.Code(want) {
				t.Errorf("%s: the call ends by %v, without a proxy by %v", name, err, want)
			}
			if w.engine.name == configs.EngineRelay && reasonOf(err) != string(proxy.Limit) {
				t.Errorf("%s: the call ends by %v, reason %q", name, err, reasonOf(err))
			}
			greet(t, proxied, 1)
		}
	})
}

// counted is the series that count calls and errors.
func counted(p *lbproxy) map[string]float64 {
	series := p.metrics()
	for name := range series {
		family, _, _ := strings.Cut(name, "{")
		switch family {
		case "lbproxy_calls_total", "lbproxy_endpoint_calls_total", "lbproxy_errors_total":
		default:
			delete(series, name)
		}
	}
	return series
}
