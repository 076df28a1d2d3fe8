package relay

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

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
