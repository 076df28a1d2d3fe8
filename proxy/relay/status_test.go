package relay

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/proxy"
)

var errTest = errors.New("test")

func TestDialects(t *testing.T) {
	for contentType, want := range map[string]dialect{
		"application/grpc":                     grpcHTTP2,
		"application/grpc+proto":               grpcHTTP2,
		"application/grpc+json; charset=utf-8": grpcHTTP2,
		"application/grpc;x=y":                 grpcHTTP2,
		"Application/GRPC ; x=y":               grpcHTTP2,
		"application/grpc-web":                 grpcWeb,
		"application/grpc-web+proto":           grpcWeb,
		"application/grpc-web-text":            grpcWebText,
		"application/grpc-web-text+proto;a=b":  grpcWebText,
		"application/grpc-web-text-base64":     grpcWebText,
		"application/grpcx":                    plainHTTP,
		"application/grpc-other":               plainHTTP,
		"application/grpc/x":                   plainHTTP,
		"application/json":                     plainHTTP,
		"text/plain; was=application/grpc":     plainHTTP,
		"application/connect+proto":            plainHTTP,
		"":                                     plainHTTP,
	} {
		if got := dialectOf(contentType); got != want {
			t.Errorf("%q is dialect %d, want %d", contentType, got, want)
		}
	}
}

// ask opens a call with these fields in place of gRPC's.
func (p *peer) ask(end bool, fields ...string) uint32 {
	id := p.next
	p.next += 2
	p.headers(id, end, append([]string{":method", "POST", ":scheme", "http", ":path", "/hello.Hello/Say", ":authority", "hello"}, fields...)...)
	return id
}

// noEndpoint is how a call ends in a world without one.
const noEndpoint = "could not connect to any of its 1 instances"

// alone is a world in which every call fails.
func alone(t *testing.T) (w *world, c *peer) {
	w = newWorld(t, "a:1")
	c = w.caller()
	c.settings()
	c.got()
	return w, c
}

func TestStatusesInGRPC(t *testing.T) {
	for _, contentType := range []string{"application/grpc", "application/grpc+json", "application/grpc+proto; a=b", "Application/gRPC;a=b"} {
		t.Run(contentType, func(t *testing.T) {
			w, c := alone(t)
			c.ask(true, "content-type", contentType)
			w.pass(2 * time.Second)
			want(t, c, "HEADERS 1 :status=200 grpc-status=14 lbproxy-error=no_ready_endpoint end")
			if got := c.last["content-type"]; got != contentType {
				t.Errorf("the call says %q, the answer %q", contentType, got)
			}
			w.finish()
		})
	}
}

func TestStatusesInHTTP(t *testing.T) {
	for _, method := range []string{"POST", "GET", "HEAD"} {
		for _, contentType := range []string{"", "application/json", "application/connect+json", "application/grpcx"} {
			t.Run(method+" "+contentType, func(t *testing.T) {
				w, c := alone(t)
				c.headers(1, true, ":method", method, ":scheme", "http", ":path", "/", ":authority", "hello", "content-type", contentType)
				w.pass(2 * time.Second)
				got := c.got()
				body := string(c.streams[1].received)
				if c.last[":status"] != "503" || c.last["lbproxy-error"] != "no_ready_endpoint" || !strings.HasPrefix(c.last["content-type"], "text/plain") {
					t.Errorf("the caller got the fields %v", c.last)
				}
				frames := fmt.Sprintf("[HEADERS 1 :status=503 lbproxy-error=no_ready_endpoint DATA 1 %s end]", c.last["content-length"])
				if method == "HEAD" {
					frames = "[HEADERS 1 :status=503 lbproxy-error=no_ready_endpoint end]"
				} else if !strings.Contains(body, noEndpoint) {
					t.Errorf("the message is %q", body)
				}
				if fmt.Sprint(got) != frames {
					t.Errorf("the caller got %q, want %q", got, frames)
				}
				if n := w.metric("lbproxy_calls_total", "code", "Unavailable", "origin", "proxy"); n != 1 {
					t.Errorf("%v calls are counted", n)
				}
				w.finish()
			})
		}
	}
}

// A status with content waits for the caller's windows, as any DATA does.
func TestStatusesInHTTPWaitForWindows(t *testing.T) {
	w, c := alone(t)
	c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 10})
	c.ask(true)
	w.pass(2 * time.Second)
	want(t, c, "HEADERS 1 :status=503 lbproxy-error=no_ready_endpoint", "DATA 1 10")
	c.grow(1, 1000)
	if body := string(c.streams[1].received); !c.streams[1].over || !strings.Contains(body, noEndpoint) {
		t.Errorf("the caller got %q", body)
	}
	w.finish()
}

func TestHTTPStatuses(t *testing.T) {
	for err, want := range map[*proxy.Error]int{
		proxy.ErrBackendLost("hello", "a:1", errTest):                   503,
		proxy.ErrDraining():                                             503,
		proxy.ErrBackendProtocol("hello", "a:1", errTest):               502,
		proxy.ErrAnswerTooLarge("hello", "a:1", 2, 1):                   502,
		proxy.ErrMetadataTooLarge("hello", "a:1", 2, 1):                 431,
		proxy.ErrMemory("hello", 1):                                     429,
		proxy.ErrDeadline("hello", time.Second, time.Second, "waiting"): 504,
		{Code: codes.Unimplemented, Reason: proxy.NoRoute}:              404,
		{Code: codes.NotFound, Reason: proxy.NoRoute}:                   404,
	} {
		if got := err.HTTPStatus(); got != want {
			t.Errorf("%v is %d in HTTP, want %d", err, got, want)
		}
	}
}

// trailersOf reads the frame of trailers that content must end with.
func trailersOf(t *testing.T, content []byte, text bool) string {
	t.Helper()
	if text {
		decoded, err := base64.StdEncoding.DecodeString(string(content))
		if err != nil {
			t.Fatalf("%q: %v", content, err)
		}
		content = decoded
	}
	var web webContent
	code := codes.OK
	web.read(grpcWeb, content, &code)
	if len(content) < 5 || content[0] != 0x80 || int(content[4]) != len(content)-5 && content[3] == 0 || code == codes.OK || web.left != 0 {
		t.Fatalf("%q is no frame of trailers", content)
	}
	return string(content[5:])
}

func TestStatusesInGRPCWeb(t *testing.T) {
	for _, tt := range []struct {
		contentType, accept, want string
		text                      bool
	}{
		{"application/grpc-web", "", "application/grpc-web", false},
		{"application/grpc-web+proto", "*/*", "application/grpc-web+proto", false},
		{"application/grpc-web-text", "", "application/grpc-web-text", true},
		{"application/grpc-web-text+proto", "application/grpc-web-text", "application/grpc-web-text+proto", true},
		{"application/grpc-web+proto", "application/grpc-web", "application/grpc-web+proto", false},
		{"application/grpc-web-text", "application/grpc-web", "application/grpc-web-text", true},
		{"application/grpc-web", "application/grpc-web-text", "application/grpc-web-text", true},
	} {
		t.Run(tt.contentType+" "+tt.accept, func(t *testing.T) {
			w, c := alone(t)
			c.ask(true, "content-type", tt.contentType, "accept", tt.accept)
			w.pass(2 * time.Second)
			content := c.streams[1].received
			want(t, c, "HEADERS 1 :status=200", fmt.Sprintf("DATA 1 %d end", len(content)))
			if got := c.last["content-type"]; got != tt.want {
				t.Errorf("the answer is %q, want %q", got, tt.want)
			}
			trailers := trailersOf(t, content, tt.text)
			for _, part := range []string{"grpc-status: 14\r\n", noEndpoint, "lbproxy-error: no_ready_endpoint\r\n"} {
				if !strings.Contains(trailers, part) {
					t.Errorf("the trailers %q lack %q", trailers, part)
				}
			}
			w.finish()
		})
	}
}
