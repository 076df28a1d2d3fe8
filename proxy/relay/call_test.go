package relay

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/proxy/retry"
)

// pair is a world of one caller and one backend.
func pair(t testing.TB, settings ...setting) (w *world, c, b *peer) {
	w = newWorld(t, "a:1")
	b = w.backend("a:1", settings...)
	c = w.caller()
	c.settings()
	c.got()
	b.got()
	return w, c, b
}

func want(t testing.TB, p *peer, frames ...string) {
	t.Helper()
	if diff := cmp.Diff(frames, p.got()); diff != "" {
		t.Errorf("the %s got other frames (-want +got):\n%s", [...]string{"caller", "backend"}[p.side], diff)
	}
}

func TestUnary(t *testing.T) {
	w, c, b := pair(t)
	id := c.request(false)
	c.data(id, []byte("request"), true)
	want(t, b, "HEADERS 1", "DATA 1 7 end")
	b.respond(1)
	b.data(1, []byte("response"), false)
	b.trailers(1, "0")
	want(t, c, "HEADERS 1 :status=200", "DATA 1 8", "HEADERS 1 grpc-status=0 end")
	if got := string(c.streams[id].received); got != "response" {
		t.Errorf("the caller got %q", got)
	}
	want(t, b)
	w.finish()
}

func TestEnds(t *testing.T) {
	for _, tt := range []struct {
		name            string
		do              func(w *world, c, b *peer)
		caller, backend []string
	}{
		{
			name: "Trailers-Only",
			do: func(w *world, c, b *peer) {
				c.data(c.request(false), []byte("x"), true)
				b.only(1, "5")
			},
			caller:  []string{"HEADERS 1 :status=200 grpc-status=5 end"},
			backend: []string{"HEADERS 1", "DATA 1 1 end"},
		},
		{
			name: "a request without a body",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.only(1, "0")
			},
			caller:  []string{"HEADERS 1 :status=200 grpc-status=0 end"},
			backend: []string{"HEADERS 1 end"},
		},
		{
			name: "the caller half-closes first",
			do: func(w *world, c, b *peer) {
				id := c.request(false)
				b.respond(1)
				c.data(id, nil, true)
				b.data(1, []byte("xy"), false)
				b.trailers(1, "0")
			},
			caller:  []string{"HEADERS 1 :status=200", "DATA 1 2", "HEADERS 1 grpc-status=0 end"},
			backend: []string{"HEADERS 1", "DATA 1 0 end"},
		},
		{
			name: "the backend finishes early",
			do: func(w *world, c, b *peer) {
				id := c.request(false)
				b.only(1, "0")
				c.data(id, []byte("late"), true)
			},
			caller:  []string{"HEADERS 1 :status=200 grpc-status=0 end", "RST 1 NO_ERROR"},
			backend: []string{"HEADERS 1", "RST 1 CANCEL"},
		},
		{
			name: "the caller cancels",
			do: func(w *world, c, b *peer) {
				c.reset(c.request(false), http2.ErrCodeCancel)
				b.respond(1)
				b.data(1, []byte("late"), false)
				b.trailers(1, "0")
			},
			backend: []string{"HEADERS 1", "RST 1 CANCEL"},
		},
		{
			name: "the caller resets with another code",
			do: func(w *world, c, b *peer) {
				c.reset(c.request(false), http2.ErrCodeInternal)
			},
			backend: []string{"HEADERS 1", "RST 1 CANCEL"},
		},
		{
			name: "the backend cancels",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.reset(1, http2.ErrCodeCancel)
			},
			caller:  []string{"RST 1 CANCEL"},
			backend: []string{"HEADERS 1 end"},
		},
		{
			name: "the backend has too many",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.respond(1)
				b.reset(1, http2.ErrCodeEnhanceYourCalm)
			},
			caller:  []string{"HEADERS 1 :status=200", "RST 1 ENHANCE_YOUR_CALM"},
			backend: []string{"HEADERS 1 end"},
		},
		{
			name: "the backend resets after an informational response",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.headers(1, false, ":status", "103")
				b.reset(1, http2.ErrCodeInternal)
			},
			caller:  []string{"HEADERS 1 :status=103", "HEADERS 1 :status=200 grpc-status=13 lbproxy-error=backend_protocol end"},
			backend: []string{"HEADERS 1 end"},
		},
		{
			name: "the backend resets after its headers",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.respond(1)
				b.reset(1, http2.ErrCodeProtocol)
			},
			caller:  []string{"HEADERS 1 :status=200", "HEADERS 1 grpc-status=13 lbproxy-error=backend_protocol end"},
			backend: []string{"HEADERS 1 end"},
		},
		{
			name: "the backend ends gRPC with DATA",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.respond(1)
				b.data(1, []byte("x"), true)
			},
			caller:  []string{"HEADERS 1 :status=200", "DATA 1 1", "HEADERS 1 grpc-status=13 lbproxy-error=backend_protocol end"},
			backend: []string{"HEADERS 1 end"},
		},
		{
			name: "the backend sends DATA first",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.data(1, []byte("x"), false)
			},
			caller:  []string{"HEADERS 1 :status=200 grpc-status=13 lbproxy-error=backend_protocol end"},
			backend: []string{"HEADERS 1 end", "RST 1 PROTOCOL_ERROR"},
		},
		{
			name: "the backend's connection is lost",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.respond(1)
				b.end()
			},
			caller:  []string{"HEADERS 1 :status=200", "HEADERS 1 grpc-status=14 lbproxy-error=backend_lost end"},
			backend: []string{"HEADERS 1 end"},
		},
		{
			name: "the caller's connection is lost",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.respond(1)
				c.end()
				b.trailers(1, "0")
			},
			caller:  []string{"HEADERS 1 :status=200"},
			backend: []string{"HEADERS 1 end", "RST 1 CANCEL"},
		},
		{
			name: "the deadline runs out before the answer",
			do: func(w *world, c, b *peer) {
				c.request(true, "grpc-timeout", "1S")
				w.pass(900 * time.Millisecond)
				w.pass(200 * time.Millisecond)
			},
			caller:  []string{"HEADERS 1 :status=200 grpc-status=4 lbproxy-error=deadline end"},
			backend: []string{"HEADERS 1 grpc-timeout=1S end", "RST 1 CANCEL"},
		},
		{
			name: "the deadline runs out in the answer",
			do: func(w *world, c, b *peer) {
				c.request(true, "grpc-timeout", "1S")
				b.respond(1)
				b.data(1, []byte("x"), false)
				w.pass(1100 * time.Millisecond)
			},
			caller:  []string{"HEADERS 1 :status=200", "DATA 1 1", "HEADERS 1 grpc-status=4 lbproxy-error=deadline end"},
			backend: []string{"HEADERS 1 grpc-timeout=1S end", "RST 1 CANCEL"},
		},
		{
			name: "the proxy ends",
			do: func(w *world, c, b *peer) {
				c.request(false)
				c.c.drain()
				w.core.failAll()
				w.step()
			},
			caller: []string{
				"GOAWAY 2147483647 NO_ERROR", "PING ack=false",
				"HEADERS 1 :status=200 grpc-status=14 lbproxy-error=draining end", "RST 1 NO_ERROR", "GOAWAY 1 NO_ERROR",
			},
			backend: []string{"HEADERS 1", "RST 1 CANCEL"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c, b := pair(t)
			tt.do(w, c, b)
			want(t, c, tt.caller...)
			want(t, b, tt.backend...)
			w.finish()
		})
	}
}

func TestWaiting(t *testing.T) {
	t.Run("for an endpoint that comes", func(t *testing.T) {
		w := newWorld(t, "a:1")
		c := w.caller()
		c.settings()
		id := c.request(false)
		c.data(id, []byte("kept"), true)
		b := w.backend("a:1")
		want(t, b, "HEADERS 1", "DATA 1 4 end")
		w.finish()
	})
	t.Run("for an endpoint that does not come", func(t *testing.T) {
		w := newWorld(t, "a:1")
		c := w.caller()
		c.settings()
		c.request(true)
		w.pass(2 * time.Second)
		want(t, c, "HEADERS 1 :status=200 grpc-status=14 lbproxy-error=no_ready_endpoint end")
		w.finish()
	})
	t.Run("beyond the deadline", func(t *testing.T) {
		w := newWorld(t, "a:1")
		c := w.caller()
		c.settings()
		c.request(true, "grpc-timeout", "100m")
		w.pass(200 * time.Millisecond)
		want(t, c, "HEADERS 1 :status=200 grpc-status=4 lbproxy-error=deadline end")
		w.finish()
	})
	t.Run("for a stream", func(t *testing.T) {
		w, c, b := pair(t, setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
		c.request(true)
		c.request(true)
		c.request(true)
		c.request(true, "grpc-timeout", "100m")
		want(t, b, "HEADERS 1 end")
		c.reset(3, http2.ErrCodeCancel)
		w.pass(200 * time.Millisecond)
		want(t, c, "HEADERS 7 :status=200 grpc-status=4 lbproxy-error=deadline end")
		b.only(1, "0")
		want(t, b, "HEADERS 3 end")
		want(t, c, "HEADERS 1 :status=200 grpc-status=0 end")
		b.only(3, "0")
		want(t, c, "HEADERS 5 :status=200 grpc-status=0 end")
		w.finish()
	})
	t.Run("for a stream, of another's caller that does not read", func(t *testing.T) {
		w, c, b := pair(t, setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
		c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 0})
		c.request(true)
		c.request(true)
		b.respond(1)
		b.data(1, []byte("nobody takes this"), false)
		b.trailers(1, "0")
		want(t, b, "HEADERS 1 end", "HEADERS 3 end")
		b.only(3, "0")
		c.grow(1, 100)
		want(t, c, "HEADERS 1 :status=200", "HEADERS 3 :status=200 grpc-status=0 end", "DATA 1 17", "HEADERS 1 grpc-status=0 end")
		w.finish()
	})
	t.Run("for a stream, of a connection that goes away", func(t *testing.T) {
		w, c, b := pair(t, setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
		c.request(true)
		c.request(true)
		b.goAway(1)
		w.disconnected("a:1")
		want(t, c)
		b2 := w.backend("a:1")
		want(t, b2, "HEADERS 1 end")
		b.only(1, "0")
		b2.only(1, "0")
		want(t, c, "HEADERS 1 :status=200 grpc-status=0 end", "HEADERS 3 :status=200 grpc-status=0 end")
		if !b.closed || b2.closed {
			t.Error("the connection that was to end has not, or another has")
		}
		w.finish()
	})
	t.Run("for a connection that the policy does not miss yet", func(t *testing.T) {
		w, c, b := pair(t)
		b.goAway(0)
		c.request(true)
		want(t, c)
		w.disconnected("a:1")
		want(t, w.backend("a:1"), "HEADERS 1 end")
		w.finish()
	})
}

func TestAgain(t *testing.T) {
	request := bytes.Repeat([]byte("0123456789abcdef"), 512)
	refuse := func(w *world, b *peer) { b.reset(1, http2.ErrCodeRefusedStream) }
	for _, tt := range []struct {
		name   string
		refuse func(w *world, b *peer)
	}{
		{"REFUSED_STREAM", refuse},
		{"GOAWAY", func(w *world, b *peer) { b.goAway(0) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, "a:1", "b:1", "c:1", "d:1")
			var backends []*peer
			for addr := range w.endpoints {
				backends = append(backends, w.backend(addr))
			}
			c := w.caller()
			c.settings()
			id := c.request(false)
			c.data(id, request, false)
			tried := map[*peer]bool{}
			for range retry.MaxAttempts {
				b := opened(t, backends, tried)
				if got := b.streams[1].received; !bytes.Equal(got, request) {
					t.Fatalf("backend got %d bytes, which are not the request's %d", len(got), len(request))
				}
				tried[b] = true
				tt.refuse(w, b)
				w.step()
			}
			if got := c.got(); len(got) != 1 || got[0] != "RST 1 REFUSED_STREAM" {
				t.Errorf("the caller got %q", got)
			}
			if len(tried) != retry.MaxAttempts {
				t.Errorf("%d endpoints were tried", len(tried))
			}
			w.finish()
		})
	}
	t.Run("to the end", func(t *testing.T) {
		w := newWorld(t, "a:1", "b:1")
		backends := []*peer{w.backend("a:1"), w.backend("b:1")}
		c := w.caller()
		c.settings()
		id := c.request(false)
		c.data(id, request, true)
		first := opened(t, backends, nil)
		refuse(w, first)
		second := opened(t, backends, map[*peer]bool{first: true})
		if st := second.streams[1]; !st.over || !bytes.Equal(st.received, request) {
			t.Error("the second backend did not get the request")
		}
		second.only(1, "0")
		want(t, c, "HEADERS 1 :status=200 grpc-status=0 end")
		w.finish()
	})
	t.Run("not what is too long", func(t *testing.T) {
		w, c, b := pair(t)
		id := c.request(false)
		c.data(id, make([]byte, maxRetryBuffer+1), false)
		refuse(w, b)
		if got := c.got(); len(got) == 0 || got[len(got)-1] != "RST 1 REFUSED_STREAM" {
			t.Errorf("the caller got %q", got)
		}
		w.finish()
	})
	t.Run("not what has been answered", func(t *testing.T) {
		w, c, b := pair(t)
		c.request(true)
		b.respond(1)
		refuse(w, b)
		want(t, c, "HEADERS 1 :status=200", "RST 1 REFUSED_STREAM")
		w.finish()
	})
	t.Run("what was never written", func(t *testing.T) {
		w, c, b := pair(t)
		b.pause()
		c.request(true)
		c.request(true)
		b.end()
		w.disconnected("a:1")
		want(t, c, "HEADERS 1 :status=200 grpc-status=14 lbproxy-error=backend_lost end")
		b = w.backend("a:1")
		want(t, b, "HEADERS 1 end")
		b.only(1, "0")
		want(t, c, "HEADERS 3 :status=200 grpc-status=0 end")
		w.finish()
	})
	t.Run("the only endpoint, which goes away", func(t *testing.T) {
		w, c, b := pair(t)
		c.request(true)
		b.goAway(0)
		w.disconnected("a:1")
		b = w.backend("a:1")
		want(t, b, "HEADERS 1 end")
		w.finish()
	})
}

// opened returns the one backend, of those not tried, that has a stream.
func opened(t *testing.T, backends []*peer, tried map[*peer]bool) *peer {
	t.Helper()
	for _, b := range backends {
		if !tried[b] && len(b.streams) > 0 {
			return b
		}
	}
	t.Fatal("no other backend was tried")
	return nil
}

func TestDrain(t *testing.T) {
	w, c, b := pair(t)
	c.request(true)
	c.c.drain()
	w.step()
	want(t, c, "GOAWAY 2147483647 NO_ERROR", "PING ack=false")
	c.request(true)
	want(t, b, "HEADERS 1 end", "HEADERS 3 end")
	c.fr.WritePing(true, drainPing)
	c.send()
	want(t, c, "GOAWAY 3 NO_ERROR")
	c.request(true)
	want(t, c, "RST 5 REFUSED_STREAM")
	b.only(1, "0")
	if c.closed {
		t.Fatal("the connection is closed before its last stream has ended")
	}
	b.only(3, "0")
	want(t, c, "HEADERS 1 :status=200 grpc-status=0 end", "HEADERS 3 :status=200 grpc-status=0 end")
	if !c.closed {
		t.Error("the connection is not closed after its last stream")
	}
	w.finish()
}

func TestDrainOfOneThatGoesAwayItself(t *testing.T) {
	w, c, _ := pair(t)
	c.goAway(0)
	c.c.drain()
	w.step()
	want(t, c, "GOAWAY 2147483647 NO_ERROR", "PING ack=false")
	c.fr.WritePing(true, drainPing)
	c.send()
	if !c.closed {
		t.Error("the connection is not closed")
	}
	w.finish()
}
