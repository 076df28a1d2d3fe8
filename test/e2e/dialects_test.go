package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery"
)

// say sends a request in HTTP/2 for "hello" at addr.
func say(t *testing.T, addr, method string, header http.Header, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), method, "http://hello/helloworld.Greeter/SayHello", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	transport := h2c(addr)
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(content)
}

// A caller that speaks gRPC-Web, or no gRPC at all, gets errors in the form that it understands.
func TestStatusesInOtherProtocols(t *testing.T) {
	w := newWorld(t, engine{name: configs.EngineRelay})
	p := w.startProxy()
	const message = "nothing has been registered under this name"
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
		resp, body := say(t, p.Addrs()[0], method, http.Header{"Content-Type": {"application/json"}}, "{}")
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("lbproxy-error") != "unknown_service" ||
			!strings.HasPrefix(resp.Header.Get("content-type"), "text/plain") || resp.Header.Get("grpc-status") != "" {
			t.Errorf("%s: the response is %v", method, resp)
		}
		if strings.Contains(body, message) != (method != http.MethodHead) {
			t.Errorf("%s: the content is %q", method, body)
		}
	}
	for contentType, decode := range map[string]func(string) ([]byte, error){
		"application/grpc-web+proto": func(s string) ([]byte, error) { return []byte(s), nil },
		"application/grpc-web-text":  base64.StdEncoding.DecodeString,
	} {
		resp, body := say(t, p.Addrs()[0], http.MethodPost, http.Header{"Content-Type": {contentType}}, "")
		frame, err := decode(body)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("content-type") != contentType || err != nil || len(frame) < 5 || frame[0] != 0x80 {
			t.Fatalf("%s: %v, %q, %v", contentType, resp, body, err)
		}
		trailers, err := url.PathUnescape(string(frame[5:]))
		if err != nil || !strings.HasPrefix(trailers, "grpc-status: 14\r\n") || !strings.Contains(trailers, message) {
			t.Errorf("%s: the trailers are %q", contentType, trailers)
		}
	}
}

// Clients compare the content-type with their own, and treat another as an error.
func TestContentTypeOfStatuses(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		p := w.startProxy()
		for _, contentType := range []string{"application/grpc", "application/grpc+json", "application/grpc+proto"} {
			resp, _ := say(t, p.Addrs()[0], http.MethodPost, http.Header{"Content-Type": {contentType}, "Te": {"trailers"}}, "")
			if got := resp.Header.Get("content-type"); got != contentType {
				t.Errorf("the call says %q, the answer %q", contentType, got)
			}
			if got := resp.Header.Get("grpc-status") + resp.Trailer.Get("grpc-status"); got != "14" {
				t.Errorf("%s: grpc-status %q", contentType, got)
			}
		}
	})
}

// Calls are counted by what callers see, in responses that are not gRPC, too.
func TestCodesOfHTTPResponses(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		backend := startHTTP(t, func(rw http.ResponseWriter, r *http.Request) {
			var code, size int
			fmt.Sscanf(r.Header.Get("want"), "%d %d", &code, &size)
			rw.Header().Set("content-type", "text/html")
			rw.WriteHeader(code)
			rw.Write(bytes.Repeat([]byte("x"), size))
		})
		w.startRegistrar(w.client, "hello", discovery.Instance{Addr: backend, Weight: 1})
		p := w.startProxy(listed("hello"))
		cc := p.dial("hello")
		want := map[codes.Code]float64{}
		for _, code := range []int{200, 400, 401, 403, 404, 418, 429, 500, 502, 503, 504} {
			for _, size := range []int{0, 10, 100_000} { // grpc-go reads no more than 1 KiB of them
				_, err := sayHello(metadata.AppendToOutgoingContext(within(t), "want", fmt.Sprint(code, " ", size)), cc)
				want[status.Code(err)]++
			}
		}
		for code, n := range want {
			await(t, fmt.Sprintf("%v calls of code %s", n, code), func() bool {
				sum := 0.0
				for series, n := range p.metrics() {
					if strings.HasPrefix(series, fmt.Sprintf(`lbproxy_calls_total{code=%q,`, code)) {
						sum += n
					}
				}
				return sum == n
			})
		}
	})
}

// A request may name its host as in HTTP/1.1.
func TestHostInPlaceOfAuthority(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		in := w.startInstance("hello", "", 1)
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 1)
		c, err := net.Dial("tcp", p.Addrs()[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, http2.ClientPreface)
		f := newFrames(c)
		f.stream = 1
		f.WriteSettings()
		f.headers(false, ":method", "POST", ":scheme", "http", ":path", "/helloworld.Greeter/SayHello",
			"host", "hello:7070", "content-type", "application/grpc", "te", "trailers")
		f.body(true, "\x00\x00\x00\x00\x00")
		for !f.ended {
			if err := f.read(); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.ContainsFunc(f.saw, func(s string) bool { return strings.Contains(s, `grpc-status = "0"`) }) {
			t.Errorf("the caller has seen %q; the instance is %s", f.saw, in.addr)
		}
	})
}

func TestRootedAuthority(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		in := w.startInstance("hello", "", 1)
		p := w.startProxy()
		for _, authority := range []string{"hello.", "hello.:7070"} {
			if addr, err := sayHello(within(t), p.dial(authority)); err != nil || addr != in.addr {
				t.Errorf("%s: %q, %v", authority, addr, err)
			}
		}
	})
}

// A call that never left the proxy says so.
func TestDeadlineOfACallThatWaitsForAStream(t *testing.T) {
	w := newWorld(t, engine{name: configs.EngineRelay})
	running, done := make(chan struct{}), make(chan struct{})
	in := w.startInstance("hello", "", 1, onHello(func(context.Context) error {
		close(running)
		<-done
		return nil
	}), func(b *backend) { b.options = append(b.options, grpc.MaxConcurrentStreams(1)) })
	p := w.startProxy(listed("hello"), func(cfg *configs.Config) {
		cfg.Relay.Workers, cfg.Relay.MaxEndpointConnections = 1, 1
	})
	ended := make(chan error)
	go func() { // ends by done
		_, err := sayHello(within(t), p.dial("hello"))
		ended <- err
	}()
	<-running
	a, err := post(within(t), p.Addrs()[0], "/helloworld.Greeter/SayHello", metadata.Pairs("grpc-timeout", "300m"), nil)
	if err != nil {
		t.Fatal(err)
	}
	message, err := url.PathUnescape(a.Header.Get("grpc-message"))
	want := "of waiting for a stream at " + in.addr + ", which allows 1 and has 1 waiting"
	if err != nil || a.Header.Get("grpc-status") != strconv.Itoa(int(codes.DeadlineExceeded)) ||
		!strings.Contains(message, "the call's deadline of 300ms ran out after 3") || !strings.Contains(message, want) {
		t.Errorf("the answer is %v, its message %q; want %q", a.Header, message, want)
	}
	close(done)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
