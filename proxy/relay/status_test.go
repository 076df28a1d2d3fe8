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

// What has begun ends as it has begun: whoever reads it must see that it is not all.
func TestStatusesInTheMidstOfAResponse(t *testing.T) {
	message := "\x00\x00\x00\x00\x03abc"
	in64 := base64.StdEncoding.EncodeToString([]byte(message))
	for _, tt := range []struct {
		name, asked, answered, content string
		length                         string
		want                           string // how it ends
	}{
		{"gRPC", "application/grpc", "application/grpc", message, "", "trailers"},
		{"gRPC in midst of a message", "application/grpc", "application/grpc", message[:6], "", "trailers"},
		{"gRPC answered with HTML", "application/grpc", "text/html", "<html>", "", "trailers"},
		{"HTTP", "application/json", "application/json", "{", "", "reset"},
		{"HTTP answered with gRPC", "application/json", "application/grpc", message, "", "trailers"},
		{"gRPC-Web", "application/grpc-web", "application/grpc-web", message, "", "frame"},
		{"gRPC-Web before its first message", "application/grpc-web", "application/grpc-web", "", "", "frame"},
		{"gRPC-Web of a length", "application/grpc-web", "application/grpc-web", message, "99", "reset"},
		{"gRPC-Web in midst of a message", "application/grpc-web", "application/grpc-web", message[:7], "", "reset"},
		{"gRPC-Web in midst of a prefix", "application/grpc-web", "application/grpc-web", message[:2], "", "reset"},
		{"gRPC-Web behind its trailers", "application/grpc-web", "application/grpc-web", message + "\x80\x00\x00\x00\x00", "", "reset"},
		{"gRPC-Web answered with HTML", "application/grpc-web", "text/html", "<html>", "", "reset"},
		{"gRPC-Web in base64", "application/grpc-web-text", "application/grpc-web-text", in64, "", "frame in base64"},
		{"gRPC-Web in base64 in midst of a group", "application/grpc-web-text", "application/grpc-web-text", in64[:5], "", "reset"},
		{"gRPC-Web in base64 in midst of a message", "application/grpc-web-text", "application/grpc-web-text", in64[:8], "", "reset"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c, b := pair(t)
			c.ask(true, "content-type", tt.asked)
			fields := []string{":status", "200", "content-type", tt.answered}
			if tt.length != "" {
				fields = append(fields, "content-length", tt.length)
			}
			b.headers(1, false, fields...)
			for _, piece := range []byte(tt.content) {
				b.data(1, []byte{piece}, false)
			}
			c.got()
			b.end()
			got := c.got()
			rest := c.streams[1].received[len(tt.content):]
			switch tt.want {
			case "trailers":
				if fmt.Sprint(got) != "[HEADERS 1 grpc-status=14 lbproxy-error=backend_lost end]" {
					t.Errorf("the caller got %q", got)
				}
			case "reset":
				if fmt.Sprint(got) != "[RST 1 INTERNAL_ERROR]" {
					t.Errorf("the caller got %q", got)
				}
			default:
				if trailers := trailersOf(t, rest, tt.want == "frame in base64"); !strings.Contains(trailers, "lbproxy-error: backend_lost") {
					t.Errorf("the trailers are %q", trailers)
				}
				if !c.streams[1].over {
					t.Errorf("the caller got %q", got)
				}
			}
			if n := w.metric("lbproxy_calls_total", "code", "Unavailable", "origin", "proxy"); n != 1 {
				t.Errorf("%v calls are counted", n)
			}
			w.finish()
		})
	}
}

// Whoever has got a part of what has come of a response must not take the status for the rest.
func TestStatusBehindAResponseThatIsDiscarded(t *testing.T) {
	w, c, b := pair(t)
	c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 10})
	c.ask(true, "content-type", "application/grpc-web")
	b.headers(1, false, ":status", "200", "content-type", "application/grpc-web")
	b.data(1, append([]byte{0, 0, 0, 0, 200}, make([]byte, 200)...), false)
	c.got()
	for s := range c.c.Streams() {
		exchangeOf(s).discard(w.core)
	}
	w.step()
	want(t, c, "RST 1 INTERNAL_ERROR")
	w.finish()
}

// What has not been sent of a response that cannot be finished is not sent any more.
func TestResetOfAResponseThatWaits(t *testing.T) {
	w, c, b := pair(t)
	c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 3})
	c.ask(true, "grpc-timeout", "1S")
	b.headers(1, false, ":status", "200")
	b.data(1, []byte("much"), true)
	w.pass(2 * time.Second)
	want(t, c, "HEADERS 1 :status=200", "DATA 1 3", "RST 1 INTERNAL_ERROR")
	w.finish()
}

// gRPC alone must end with a status: all else passes as it is.
func TestResponsesThatEndWithDATA(t *testing.T) {
	for _, tt := range []struct{ status, contentType string }{
		{"200", "application/grpc-web+proto"},
		{"200", "application/grpc-web-text"},
		{"200", "application/grpcx"},
		{"200", "application/json"},
		{"503", "application/grpc"},
	} {
		t.Run(tt.status+" "+tt.contentType, func(t *testing.T) {
			w, c, b := pair(t)
			c.request(true)
			b.headers(1, false, ":status", tt.status, "content-type", tt.contentType)
			b.data(1, []byte("x"), true)
			want(t, c, "HEADERS 1 :status="+tt.status, "DATA 1 1 end")
			w.finish()
		})
	}
}

// What is counted is what the caller's library makes of a response.
func TestCodesOfResponses(t *testing.T) {
	type response struct {
		status, contentType, grpcStatus string // grpcStatus stands in the first fields
		trailers                        string // or in the last
	}
	const none = "" // no trailers: DATA ends it
	mapped := map[string]codes.Code{
		"200": codes.Unknown, "204": codes.Unknown, "302": codes.Unknown, "400": codes.Internal, "401": codes.Unauthenticated,
		"403": codes.PermissionDenied, "404": codes.Unimplemented, "418": codes.Unknown, "429": codes.Unavailable,
		"431": codes.Internal, "500": codes.Unknown, "502": codes.Unavailable, "503": codes.Unavailable, "504": codes.Unavailable,
	}
	type kind struct {
		asked string
		response
		want codes.Code
	}
	kinds := []kind{
		{"application/grpc", response{"200", "application/grpc", "5", none}, codes.NotFound},
		{"application/grpc", response{"200", "application/grpc", "", "5"}, codes.NotFound},
		{"application/grpc", response{"200", "application/grpc", "", "ten"}, codes.Unknown},
		{"application/grpc", response{"200", "application/grpc", "", "missing"}, codes.Unknown},
		{"application/grpc", response{"503", "application/grpc", "5", none}, codes.NotFound},
		{"application/grpc", response{"503", "text/plain", "", "5"}, codes.NotFound},
		{"application/grpc", response{"200", "application/json", "", none}, codes.Unknown},
		{"application/json", response{"200", "application/json", "", none}, codes.OK},
		{"application/json", response{"204", "", "", none}, codes.OK},
		{"application/json", response{"404", "application/json", "", none}, codes.Unimplemented},
	}
	for status, code := range mapped {
		kinds = append(kinds,
			kind{"application/grpc", response{status, "text/html", "", none}, code},
			kind{"application/grpc", response{status, "text/html", "", "missing"}, code},
			kind{"application/grpc+proto", response{status, "application/grpc", "", "missing"}, code})
	}
	for _, k := range kinds {
		t.Run(fmt.Sprint(k.asked, k.response), func(t *testing.T) {
			w, c, b := pair(t)
			c.ask(true, "content-type", k.asked)
			fields := []string{":status", k.status, "content-type", k.contentType}
			switch {
			case k.grpcStatus != "":
				b.headers(1, true, append(fields, "grpc-status", k.grpcStatus)...)
			case k.trailers == none:
				b.headers(1, false, fields...)
				b.data(1, []byte("x"), true)
			case k.trailers == "missing":
				b.headers(1, false, fields...)
				b.headers(1, true, "other", "1")
			default:
				b.headers(1, false, fields...)
				b.trailers(1, k.trailers)
			}
			mustCount(t, w, k.want)
			w.finish()
			_ = c
		})
	}
}

func mustCount(t *testing.T, w *world, code codes.Code) {
	t.Helper()
	if n := w.metric("lbproxy_calls_total", "code", code.String(), "origin", "backend"); n != 1 {
		t.Errorf("%v calls are counted as %s", n, code)
	}
}

// A gRPC library reads no further than to the fields of a response that is none, and resets the stream.
func TestCodeOfAResponseThatTheCallerDoesNotRead(t *testing.T) {
	w, c, b := pair(t)
	c.request(true)
	b.headers(1, false, ":status", "503", "content-type", "text/html")
	c.reset(1, http2.ErrCodeProtocol)
	mustCount(t, w, codes.Unavailable)
	w.finish()
}

func TestCodesInGRPCWeb(t *testing.T) {
	frames := "\x00\x00\x00\x00\x03abc" + "\x80\x00\x00\x00\x3a" + "grpc-message: this is more than a status\r\nGrpc-Status: 5\r\n"
	unended := "\x80\x00\x00\x00\x0dgrpc-status:5"
	for name, content := range map[string]string{
		"application/grpc-web":            frames,
		"application/grpc-web+proto":      unended,
		"application/grpc-web-text":       base64.StdEncoding.EncodeToString([]byte(frames)),
		"application/grpc-web-text+proto": base64.StdEncoding.EncodeToString([]byte(frames[:8])) + base64.StdEncoding.EncodeToString([]byte(frames[8:])),
	} {
		for _, size := range []int{1, 7, len(content)} {
			t.Run(fmt.Sprint(name, size), func(t *testing.T) {
				w, c, b := pair(t)
				c.ask(true, "content-type", name)
				b.headers(1, false, ":status", "200", "content-type", name)
				for i := 0; i < len(content); i += size {
					b.data(1, []byte(content[i:min(i+size, len(content))]), false)
				}
				b.data(1, nil, true)
				if got := string(c.streams[1].received); got != content {
					t.Errorf("the caller got %q", got)
				}
				mustCount(t, w, codes.NotFound)
				w.finish()
			})
		}
	}
}

func TestHostInPlaceOfAuthority(t *testing.T) {
	base := []string{":method", "POST", ":path", "/hello.Hello/Say", ":scheme", "http"}
	for _, tt := range []struct {
		name   string
		fields []string
		routed bool
		want   map[string]string // of what the backend gets
	}{
		{"host alone", []string{"x", "1", "host", "hello:7070", "te", "trailers"}, true, map[string]string{":authority": "hello:7070", "host": ""}},
		{"both, of the same", []string{":authority", "hello", "host", "hello"}, true, map[string]string{":authority": "hello", "host": "hello"}},
		{"both, and they differ", []string{":authority", "hello", "host", "other"}, true, map[string]string{":authority": "hello", "host": "other"}},
		{"neither", nil, false, nil},
		{"an empty host", []string{"host", ""}, false, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c, b := pair(t)
			w.listener.service = ""
			c.headers(1, true, append(append(base[:len(base):len(base)], tt.fields...), "content-type", "application/grpc")...)
			if !tt.routed {
				want(t, c, "HEADERS 1 :status=200 grpc-status=12 lbproxy-error=no_route end")
				w.finish()
				return
			}
			want(t, b, map[bool]string{true: "HEADERS 1 x=1 end", false: "HEADERS 1 end"}[tt.name == "host alone"])
			for name, value := range tt.want {
				if got := b.last[name]; got != value {
					t.Errorf("the backend got %s %q, want %q", name, got, value)
				}
			}
			b.only(1, "0")
			w.finish()
		})
	}
	t.Run("two hosts", func(t *testing.T) {
		w, c, _ := pair(t)
		c.headers(1, true, append(base[:len(base):len(base)], "host", "hello", "host", "hello")...)
		want(t, c, "RST 1 PROTOCOL_ERROR")
		w.finish()
	})
}
