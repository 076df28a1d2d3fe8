package relay

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/traffic"
)

const (
	silence  = 10 * time.Second
	patience = 2 * time.Second
)

// watched is a pair whose service has the backend asked whether it is there, after silence.
func watched(t *testing.T) (w *world, c, b *peer) {
	w, c, b = pair(t)
	w.configure(traffic.Service{
		Policy: picker.WeightedRoundRobin, WaitTimeout: time.Second, Keepalive: traffic.Keepalive{Time: silence, Timeout: patience},
	})
	return w, c, b
}

func TestKeepalive(t *testing.T) {
	t.Run("a backend that answers", func(t *testing.T) {
		w, c, b := watched(t)
		c.request(true)
		want(t, b, "HEADERS 1 end")
		for range 3 {
			w.pass(silence - time.Second)
			want(t, b)
			w.pass(time.Second)
			want(t, b, "PING ack=false")
			w.pass(patience / 2)
			b.fr.WritePing(true, keepalivePing)
			b.send()
			w.pass(patience / 2)
			w.pass(silence - 2*patience)
			want(t, b)
			b.grow(0, 1)
		}
		b.only(1, "0")
		want(t, c, "HEADERS 1 :status=200 grpc-status=0 end")
		w.finish()
	})
	t.Run("a backend that answers, more often than it must", func(t *testing.T) {
		w, c, b := watched(t)
		w.configure(traffic.Service{
			Policy: picker.WeightedRoundRobin, WaitTimeout: time.Second, Keepalive: traffic.Keepalive{Time: patience, Timeout: silence},
		})
		c.request(true)
		want(t, b, "HEADERS 1 end")
		for range 5 {
			w.pass(patience)
			want(t, b, "PING ack=false")
			b.fr.WritePing(true, keepalivePing)
			b.send()
			b.fr.WritePing(true, keepalivePing) // means nothing
			b.send()
		}
		w.pass(patience)
		w.pass(silence - time.Millisecond)
		if b.closed {
			t.Error("the connection has ended before its time")
		}
		w.pass(time.Millisecond)
		if !b.closed {
			t.Error("the connection goes on without an answer")
		}
		w.finish()
	})
	t.Run("a backend that says anything", func(t *testing.T) {
		w, c, b := watched(t)
		c.request(true)
		w.pass(silence)
		want(t, b, "HEADERS 1 end", "PING ack=false")
		b.respond(1)
		w.pass(patience)
		w.pass(silence - patience - time.Second)
		if b.closed {
			t.Error("the connection has ended")
		}
		want(t, b)
		w.finish()
	})
	t.Run("a backend that is gone", func(t *testing.T) {
		w, c, b := watched(t)
		c.request(true)
		w.pass(silence)
		w.pass(patience - time.Millisecond)
		if b.closed {
			t.Error("the connection has ended before its time")
		}
		c.request(true) // no sign of life
		w.pass(time.Millisecond)
		want(t, b, "HEADERS 1 end", "PING ack=false", "HEADERS 3 end")
		if !b.closed || w.ended(backend, "keepalive_timeout") != 1 {
			t.Error("the connection goes on")
		}
		slices.Sort(c.log)
		want(t, c, "HEADERS 1 :status=200 grpc-status=14 lbproxy-error=backend_lost end",
			"HEADERS 3 :status=200 grpc-status=14 lbproxy-error=backend_lost end")
		w.finish()
	})
	t.Run("a backend that talks", func(t *testing.T) {
		w, c, b := watched(t)
		c.request(true)
		b.respond(1)
		b.got()
		for range 20 {
			w.pass(silence / 2)
			b.data(1, []byte("x"), false)
		}
		want(t, b)
		w.finish()
	})
	t.Run("no calls", func(t *testing.T) {
		w, c, b := watched(t)
		w.pass(10 * silence)
		want(t, b)
		c.request(true)
		b.only(1, "0")
		w.pass(10 * silence)
		want(t, b, "HEADERS 1 end")
		if b.closed {
			t.Error("the connection has ended")
		}
		c.request(true)
		w.pass(silence)
		want(t, b, "HEADERS 3 end", "PING ack=false")
		w.finish()
	})
	t.Run("a service that comes to want it, and to want it no more, while a call runs", func(t *testing.T) {
		w, c, b := pair(t)
		settings := traffic.DefaultService()
		c.request(true)
		w.pass(10 * silence)
		want(t, b, "HEADERS 1 end")
		settings.Keepalive = traffic.Keepalive{Time: silence, Timeout: patience}
		w.configure(settings)
		w.pass(silence - time.Millisecond)
		want(t, b)
		w.pass(time.Millisecond)
		want(t, b, "PING ack=false")
		settings.Keepalive.Time = 0
		w.configure(settings)
		w.pass(10 * silence)
		want(t, b)
		if b.closed {
			t.Error("the connection has ended for want of an answer that nobody wants any more")
		}
		b.only(1, "0")
		w.finish()
	})
	t.Run("a service that comes to want it when a connection takes no more calls", func(t *testing.T) {
		w, c, b := pair(t)
		c.request(true)
		b.fr.WriteGoAway(1, http2.ErrCodeNo, nil)
		b.send()
		b.got()
		settings := traffic.DefaultService()
		settings.Keepalive = traffic.Keepalive{Time: silence, Timeout: patience}
		w.configure(settings)
		w.pass(silence)
		want(t, b, "PING ack=false")
		w.pass(patience)
		want(t, c, "HEADERS 1 :status=200 grpc-status=14 lbproxy-error=backend_lost end")
		w.finish()
	})
	t.Run("a service that does not want it", func(t *testing.T) {
		w, c, b := pair(t)
		c.request(true)
		w.pass(10 * time.Hour)
		want(t, b, "HEADERS 1 end")
		w.finish()
	})
}

// A backend that finds that it is asked too often is asked less often, on whatever connection (gRFC A8).
func TestTooManyPings(t *testing.T) {
	calm := func(b *peer, code http2.ErrCode, text string) {
		b.fr.WriteGoAway(1, code, []byte(text))
		b.send()
		b.end()
		b.w.disconnected("a:1")
	}
	for _, tt := range []struct {
		name  string
		code  http2.ErrCode
		text  string
		quiet bool // no PING has been sent
		after time.Duration
	}{
		{"", http2.ErrCodeEnhanceYourCalm, "too_many_pings", false, 2 * silence},
		{"in other words", http2.ErrCodeEnhanceYourCalm, "ping flood", false, 2 * silence},
		{"before any", http2.ErrCodeEnhanceYourCalm, "too_many_pings", true, 2 * silence},
		{"of something else", http2.ErrCodeEnhanceYourCalm, "too many resets", true, silence},
		{"with another code", http2.ErrCodeNo, "max_age", false, silence},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c, b := watched(t)
			c.request(true)
			if !tt.quiet {
				w.pass(silence)
			}
			b.got()
			calm(b, tt.code, tt.text)
			want(t, c, "HEADERS 1 :status=200 grpc-status=14 lbproxy-error=backend_lost end")
			b = w.backend("a:1")
			c.request(true)
			want(t, b, "HEADERS 1 end")
			w.pass(tt.after - time.Millisecond)
			want(t, b)
			w.pass(time.Millisecond)
			want(t, b, "PING ack=false")
			w.finish()
		})
	}
	t.Run("again and again", func(t *testing.T) {
		w, c, b := watched(t)
		for wait := silence; wait < maxPingInterval; wait *= 2 {
			c.request(true)
			w.pass(wait - time.Millisecond)
			b.got()
			w.pass(time.Millisecond)
			want(t, b, "PING ack=false")
			calm(b, http2.ErrCodeEnhanceYourCalm, "too_many_pings")
			b = w.backend("a:1")
			b.got()
		}
		c.request(true)
		w.pass(maxPingInterval - time.Millisecond)
		want(t, b, "HEADERS 1 end")
		w.pass(time.Millisecond)
		want(t, b, "PING ack=false")
		if text := b.c.pool.all.pingInterval.Load(); time.Duration(text) != maxPingInterval {
			t.Errorf("PINGs are %s apart", time.Duration(text))
		}
		w.finish()
	})
}
