package relay

import (
	"encoding/base64"
	"fmt"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

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
