package relay

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// These tests are of SETTINGS_MAX_HEADER_LIST_SIZE, which peers check what they are sent against by themselves.

// takes is a peer's setting.
func takes(fields int) setting {
	return setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(fields)}
}

// listSize is the size of fields, given as name, value, name, value.
func listSize(fields ...string) (n int) {
	for i := 0; i < len(fields); i += 2 {
		n += int(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}.Size())
	}
	return n
}

// What is too long for a caller costs it the call, as it would cost the connection (and with it all calls) to send it.
func TestAnswersTooLongForTheCaller(t *testing.T) {
	const most = 8192
	long := filling(41_059)
	for _, tt := range []struct {
		name   string
		answer func(w *world, c, b *peer)
		want   []string
	}{
		{"the fields of a response", func(w *world, c, b *peer) {
			b.headers(1, false, append([]string{":status", "200", "content-type", "application/grpc"}, long...)...)
		}, []string{"HEADERS 1 :status=200 grpc-status=13 lbproxy-error=limit end"}},
		{"Trailers-Only", func(w *world, c, b *peer) {
			b.headers(1, true, append([]string{":status", "200", "content-type", "application/grpc", "grpc-status", "5"}, long...)...)
		}, []string{"HEADERS 1 :status=200 grpc-status=13 lbproxy-error=limit end"}},
		{"trailers", func(w *world, c, b *peer) {
			b.respond(1)
			b.data(1, []byte("message"), false)
			b.headers(1, true, append([]string{"grpc-status", "0"}, long...)...)
		}, []string{"HEADERS 1 :status=200", "DATA 1 7", "HEADERS 1 grpc-status=13 lbproxy-error=limit end"}},
		{"trailers that wait", func(w *world, c, b *peer) {
			c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 0})
			b.respond(1)
			b.data(1, []byte("message"), false)
			b.headers(1, true, append([]string{"grpc-status", "0"}, long...)...)
			c.grow(1, 100)
		}, []string{"HEADERS 1 :status=200", "DATA 1 7", "HEADERS 1 grpc-status=13 lbproxy-error=limit end"}},
		{"trailers that are too long only when they are sent", func(w *world, c, b *peer) {
			c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 0}, takes(100_000))
			b.respond(1)
			b.data(1, []byte("message"), false)
			b.headers(1, true, append([]string{"grpc-status", "0"}, long...)...)
			c.settings(takes(most))
			c.grow(1, 100)
		}, []string{"HEADERS 1 :status=200", "DATA 1 7", "HEADERS 1 grpc-status=13 lbproxy-error=limit end"}},
		{"an informational response", func(w *world, c, b *peer) {
			b.headers(1, false, append([]string{":status", "103"}, long...)...)
			b.only(1, "0")
		}, []string{"HEADERS 1 :status=200 grpc-status=0 end"}},
		{"many small fields", func(w *world, c, b *peer) {
			b.headers(1, true, append([]string{":status", "200", "grpc-status", "0"}, slices.Repeat([]string{"x-a", "b"}, most/36)...)...)
		}, []string{"HEADERS 1 :status=200 grpc-status=13 lbproxy-error=limit end"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c, b := pair(t)
			c.settings(takes(most))
			c.request(true)
			tt.answer(w, c, b)
			want(t, c, tt.want...)
			if tt.want[len(tt.want)-1] != "HEADERS 1 :status=200 grpc-status=0 end" {
				for _, part := range []string{"header list size of 8192 bytes", "instance a:1 answers with "} {
					if got := c.last["grpc-message"]; !strings.Contains(got, part) {
						t.Errorf("the message does not say %q: %s", part, got)
					}
				}
				if n := w.metric("lbproxy_errors_total", "reason", "limit"); n != 1 {
					t.Errorf("%v calls are counted to have met a limit", n)
				}
			}
			c.request(true)
			b.only(3, "0")
			want(t, c, "HEADERS 3 :status=200 grpc-status=0 end")
			w.finish()
		})
	}
	t.Run("exactly what it takes", func(t *testing.T) {
		fields := append([]string{":status", "200", "grpc-status", "0"}, filling(1000)...)
		w, c, b := pair(t)
		c.settings(takes(listSize(fields...)))
		c.request(true)
		b.headers(1, true, fields...)
		want(t, c, "HEADERS 1 :status=200 grpc-status=0 end")
		w.finish()
	})
}

// A caller that takes little gets what it takes of the proxy's own statuses.
func TestStatusesForCallersThatTakeLittle(t *testing.T) {
	status := listSize(":status", "200", "content-type", "application/grpc", "grpc-status", "14")
	reason := listSize("lbproxy-error", "no_ready_endpoint")
	message := listSize("grpc-message", "")
	const whole = "HEADERS 1 :status=200 grpc-status=14 lbproxy-error=no_ready_endpoint end"
	for _, tt := range []struct {
		name    string
		most    int
		want    string
		message string
	}{
		{"a part of the message", status + reason + message + 21, whole, "lbproxy: service \"hel"},
		{"a byte of the message", status + reason + message + 1, whole, "l"},
		{"no message", status + reason + message, whole, ""},
		{"no more than the reason", status + reason, whole, ""},
		{"no reason", status + reason - 1, "HEADERS 1 :status=200 grpc-status=14 end", ""},
		{"no more than the status", status, "HEADERS 1 :status=200 grpc-status=14 end", ""},
		{"no status", status - 1, "RST 1 INTERNAL_ERROR", ""},
		{"nothing", 0, "RST 1 INTERNAL_ERROR", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c := alone(t)
			c.settings(takes(tt.most))
			c.request(true)
			w.pass(2 * time.Second)
			want(t, c, tt.want)
			if got := c.last["grpc-message"]; got != tt.message {
				t.Errorf("the message is %q, want %q", got, tt.message)
			}
			w.finish()
		})
	}
	t.Run("a status that waits", func(t *testing.T) {
		w, c, b := pair(t)
		c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 0})
		c.request(true)
		b.respond(1)
		b.data(1, []byte("message"), false)
		b.end()
		c.settings(takes(60))
		c.grow(1, 100)
		want(t, c, "HEADERS 1 :status=200", "DATA 1 7", "HEADERS 1 grpc-status=14 end")
		w.finish()
	})
	for _, contentType := range []string{"application/json", "application/grpc-web", "application/grpc-web-text"} {
		for most := 0; most < 300; most += 10 {
			t.Run(fmt.Sprintf("%s, %d bytes", contentType, most), func(t *testing.T) {
				w, c := alone(t)
				c.settings(takes(most))
				id := c.ask(true, "content-type", contentType)
				w.pass(2 * time.Second)
				if st := c.streams[id]; !st.over && !st.reset {
					t.Errorf("the call does not end: %q", c.got())
				}
				w.finish()
			})
		}
	}
}

func TestCutMessage(t *testing.T) {
	for _, tt := range []struct {
		s    string
		n    int
		want string
	}{
		{"abc", 3, "abc"},
		{"abc", 2, "ab"},
		{"abc", 0, ""},
		{"a%20b", 5, "a%20b"},
		{"a%20b", 4, "a%20"},
		{"a%20b", 3, "a"},
		{"a%20b", 2, "a"},
		{"a%20b", 1, "a"},
		{"%25%25", 5, "%25"},
	} {
		if got := cutMessage(tt.s, tt.n); got != tt.want {
			t.Errorf("cutMessage(%q, %d) = %q, want %q", tt.s, tt.n, got, tt.want)
		}
	}
}

// What counts for a backend is what it is sent.
func TestRequestsThatJustFit(t *testing.T) {
	for _, tt := range []struct {
		name string
		more []string // of which the first sent are sent
		sent int
	}{
		{"without more", nil, 0},
		{"with a service", []string{"lbproxy-service", "hello"}, 0},
		{"with more of the proxy's own", []string{"x", "y", "lbproxy-version", "", "lbproxy-other", strings.Repeat("v", 9000)}, 2},
	} {
		size := listSize(append(requestFields[:len(requestFields):len(requestFields)], tt.more[:tt.sent]...)...)
		t.Run(tt.name, func(t *testing.T) {
			w, c, b := pair(t, takes(size))
			c.request(true, tt.more...)
			b.only(1, "0")
			want(t, c, "HEADERS 1 :status=200 grpc-status=0 end")
			b.settings(takes(size - 1))
			c.request(true, tt.more...)
			want(t, c, "HEADERS 3 :status=200 grpc-status=13 lbproxy-error=limit end")
			if got := c.last["grpc-message"]; !strings.Contains(got, fmt.Sprintf("of %d bytes, the call's is %d;", size-1, size)) {
				t.Errorf("the message is %q", got)
			}
			w.finish()
		})
	}
	t.Run("with a deadline that takes more digits after a wait", func(t *testing.T) {
		for _, tt := range []struct{ room, code int }{{0, 0}, {-1, 13}} {
			w := newWorld(t, "a:1")
			c := w.caller()
			c.settings()
			c.request(true, "grpc-timeout", "1S")
			w.pass(10 * time.Millisecond)
			sent := append(requestFields[:len(requestFields):len(requestFields)], "grpc-timeout", "990000u")
			b := w.backend("a:1", takes(listSize(sent...)+tt.room))
			if tt.code == 0 {
				b.only(1, "0")
				want(t, b, "HEADERS 1 grpc-timeout=990000u end")
				want(t, c, "HEADERS 1 :status=200 grpc-status=0 end")
			} else {
				want(t, c, "HEADERS 1 :status=200 grpc-status=13 lbproxy-error=limit end")
			}
			w.finish()
		}
	})
}

// Trailers of a request count as well.
func TestTrailersTooLongForTheBackend(t *testing.T) {
	for _, window := range []uint32{1 << 16, 0} {
		w, c, b := pair(t, takes(1000), setting{ID: http2.SettingInitialWindowSize, Val: window})
		id := c.request(false)
		c.data(id, []byte("x"), false)
		c.headers(id, true, filling(1000)...)
		if window == 0 {
			b.grow(1, 100)
		}
		want(t, c, "HEADERS 1 :status=200 grpc-status=13 lbproxy-error=limit end")
		want(t, b, "HEADERS 1", "DATA 1 1", "RST 1 CANCEL")
		w.finish()
	}
}
