package relay

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/picker"
)

// A call whose deadline runs out says where it was then, and for how long it had been there.
func TestStages(t *testing.T) {
	timeout := []string{"grpc-timeout", "2S"}
	oneStream := setting{ID: http2.SettingMaxConcurrentStreams, Val: 1}
	for _, tt := range []struct {
		name string
		do   func(w *world, c, b *peer) (call uint32)
		says string
	}{
		{"an instance, of which none was ever reached", func(w *world, c, b *peer) uint32 {
			b.end()
			w.disconnected("a:1")
			w.endpoints["a:1"].SetState(picker.Failed, errors.New("connection refused"))
			return c.request(true, timeout...)
		}, "2s of waiting for an instance: none of 1 is connected; last error: a:1: connection refused"},
		{"a connection that has just been lost", func(w *world, c, b *peer) uint32 {
			b.end()
			return c.request(true, timeout...)
		}, "2s of waiting for a connection to a:1"},
		{"a stream", func(w *world, c, b *peer) uint32 {
			b.settings(oneStream)
			for range 3 {
				c.request(true)
			}
			return c.request(true, timeout...)
		}, "2s of waiting for a stream at a:1, which allows 1 and has 3 waiting"},
		{"a stream, of several connections", func(w *world, c, b *peer) uint32 {
			b.settings(oneStream)
			c.request(true)
			c.request(true)
			w.additional("a:1", oneStream)
			return c.request(true, timeout...)
		}, "2s of waiting for a stream at a:1, which allows 1 on each of 2 connections and has 1 waiting"},
		{"a stream, of as many connections as there may be", func(w *world, c, b *peer) uint32 {
			w.core.cfg.MaxConnections = 1
			b.settings(oneStream)
			c.request(true)
			return c.request(true, timeout...)
		}, "2s of waiting for a stream at a:1, which allows 1 and has 1 waiting; relay.max_endpoint_connections allows no more connections"},
		{"room in what is written to the backend", func(w *world, c, b *peer) uint32 {
			b.pause()
			for b.c.State().Requests < highWater {
				c.request(true, "filler", strings.Repeat("x", 15<<10))
			}
			return c.request(true, timeout...)
		}, "2s of waiting for a:1 to read the requests that it has been sent"},
		{"the request's windows", func(w *world, c, b *peer) uint32 {
			b.settings(setting{ID: http2.SettingInitialWindowSize, Val: 10})
			id := c.request(false, timeout...)
			c.data(id, make([]byte, 100), true)
			return id
		}, "2s of sending the request to a:1, which does not take it: 90 bytes of it wait"},
		{"the answer", func(w *world, c, b *peer) uint32 {
			return c.request(true, timeout...)
		}, "2s of waiting for the answer of a:1"},
		{"the answer, or more of the request", func(w *world, c, b *peer) uint32 {
			id := c.request(false, timeout...)
			c.data(id, []byte("x"), false)
			return id
		}, "2s of waiting for the answer of a:1, while the request has not ended"},
		{"the answer, after some time for a stream", func(w *world, c, b *peer) uint32 {
			b.settings(oneStream)
			c.request(true)
			id := c.request(true, timeout...)
			w.pass(500 * time.Millisecond)
			b.only(1, "0")
			return id
		}, "1.5s of waiting for the answer of a:1"},
		{"the rest of the answer", func(w *world, c, b *peer) uint32 {
			id := c.request(true, timeout...)
			w.pass(1500 * time.Millisecond)
			b.respond(1)
			return id
		}, "500ms of waiting for the rest of the answer of a:1, which has begun"},
		{"the caller", func(w *world, c, b *peer) uint32 {
			c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 1})
			id := c.request(true, timeout...)
			b.respond(1)
			b.data(1, []byte("xyz"), false)
			b.trailers(1, "0")
			return id
		}, "2s of passing on the answer of a:1, which the caller does not take: 2 bytes of it wait"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c, b := pair(t)
			began := w.core.now
			call := tt.do(w, c, b)
			c.got()
			for x := range callsOf(c.c, call) {
				x.giveUp = time.Time{} // else some end by wait_timeout
				x.setTimer(w.core)
			}
			w.pass(2*time.Second - w.core.now.Sub(began))
			c.grow(call, 10)
			message, err := url.PathUnescape(c.last["grpc-message"])
			if err != nil || !strings.Contains(message, "the call's deadline of 2s ran out after "+tt.says) || !strings.HasSuffix(message, tt.says) {
				t.Errorf("the message is %q, want %q", message, tt.says)
			}
			w.finish()
		})
	}
}

func callsOf(c *conn, id uint32) map[*exchange]bool {
	if x := callOf(c, id); x != nil {
		return map[*exchange]bool{x: true}
	}
	return nil
}
