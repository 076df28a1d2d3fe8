package relay

import (
	"testing"
	"time"

	"golang.org/x/net/http2"
)

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
