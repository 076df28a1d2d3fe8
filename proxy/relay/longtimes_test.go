package relay

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/traffic"
)

func TestIdleForHours(t *testing.T) {
	for _, tt := range []struct {
		name  string
		world func(*testing.T) (w *world, c, b *peer)
	}{
		{"without keepalive", func(t *testing.T) (w *world, c, b *peer) { return pair(t) }},
		{"with keepalive", watched},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c, b := tt.world(t)
			id := c.request(false)
			c.data(id, []byte("before"), false)
			b.respond(1)
			for until := w.core.now.Add(5 * time.Hour); w.core.now.Before(until); w.pass(time.Minute) {
				if got := b.got(); len(got) > 0 && got[len(got)-1] == "PING ack=false" {
					b.fr.WritePing(true, keepalivePing)
					b.send()
				}
			}
			w.pass(0)
			if b.closed || c.closed {
				t.Fatal("a connection has ended")
			}
			c.got()
			c.data(id, []byte("after"), true)
			b.data(1, []byte("answer"), false)
			b.trailers(1, "0")
			want(t, c, "DATA 1 6", "HEADERS 1 grpc-status=0 end")
			if got := string(b.streams[1].received); got != "beforeafter" || !b.streams[1].over {
				t.Errorf("the backend got %q, and the end: %v", got, b.streams[1].over)
			}
			w.finish()
		})
	}
}

func TestFarTimes(t *testing.T) {
	const year = 365 * 24 * time.Hour
	t.Run("a deadline", func(t *testing.T) {
		for _, timeout := range []string{"99999999H", "99999999M", "20000H"} {
			w, c, b := pair(t)
			c.request(true, "grpc-timeout", timeout)
			c.request(true, "grpc-timeout", "1S")
			w.pass(time.Second)
			want(t, c, "HEADERS 3 :status=200 grpc-status=4 lbproxy-error=deadline end")
			w.pass(2 * year)
			b.only(1, "0")
			want(t, c, "HEADERS 1 :status=200 grpc-status=0 end")
			w.finish()
		}
	})
	t.Run("a wait", func(t *testing.T) {
		w := newWorld(t, "a:1")
		w.configure(traffic.Service{Policy: picker.WeightedRoundRobin, WaitTimeout: year})
		c := w.caller()
		c.settings()
		c.request(true)
		c.request(true, "grpc-timeout", "99999999H")
		c.request(true, "grpc-timeout", "1H")
		w.pass(time.Hour)
		want(t, c, "HEADERS 5 :status=200 grpc-status=4 lbproxy-error=deadline end")
		w.pass(year - 2*time.Hour)
		want(t, c)
		w.pass(time.Hour)
		slices.Sort(c.log)
		want(t, c, "HEADERS 1 :status=200 grpc-status=14 lbproxy-error=no_ready_endpoint end",
			"HEADERS 3 :status=200 grpc-status=14 lbproxy-error=no_ready_endpoint end")
		w.finish()
	})
	t.Run("a stream that is waited for", func(t *testing.T) {
		w, c, b := pair(t, setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
		c.request(true)
		c.request(true)
		w.pass(year)
		want(t, c)
		b.only(1, "0")
		want(t, b, "HEADERS 1 end", "HEADERS 3 end")
		w.finish()
	})
}
