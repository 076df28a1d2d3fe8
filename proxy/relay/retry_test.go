package relay

import (
	"bytes"
	"testing"

	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/proxy/retry"
)

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
