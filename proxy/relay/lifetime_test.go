package relay

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/traffic"
)

func TestMaxConnectionAge(t *testing.T) {
	const age = time.Hour
	w := newWorld(t, "a:1")
	w.core.cfg.MaxConnectionAge = age
	b := w.backend("a:1")
	c := w.caller()
	c.settings()
	c.request(true)
	w.pass(age - age/10 - time.Second)
	want(t, c)
	w.pass(age/5 + 2*time.Second)
	want(t, c, "GOAWAY 2147483647 NO_ERROR", "PING ack=false")
	c.request(true) // was on its way
	want(t, b, "HEADERS 1 end", "HEADERS 3 end")
	c.fr.WritePing(true, drainPing)
	c.send()
	want(t, c, "GOAWAY 3 NO_ERROR")
	w.pass(10 * age)
	b.only(1, "0")
	if c.closed {
		t.Error("the connection has ended before its last call")
	}
	b.only(3, "0")
	want(t, c, "HEADERS 1 :status=200 grpc-status=0 end", "HEADERS 3 :status=200 grpc-status=0 end")
	if !c.closed || w.ended(caller, "finished") != 1 {
		t.Error("the connection goes on")
	}
	w.pass(10 * age)
	if b.closed {
		t.Error("a backend's connection has ended of its age")
	}
	w.finish()
}

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

func TestGoAwayIsTold(t *testing.T) {
	w, c, b := pair(t)
	c.request(true)
	b.fr.WriteGoAway(1, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings\x00"+strings.Repeat("x", 1000)))
	b.send()
	const says = `the backend has sent GOAWAY ENHANCE_YOUR_CALM "too_many_pings\x00xxx`
	if got := b.c.handshake.err.Error(); !strings.HasPrefix(got, says) || len(got) > 300 {
		t.Errorf("the connection is over because %s; want %s", got, says)
	}
	b.end()
	want(t, c, "HEADERS 1 :status=200 grpc-status=14 lbproxy-error=backend_lost end")
	if got := c.last["grpc-message"]; !strings.Contains(got, says) {
		t.Errorf("the call's status says %q; want %s", got, says)
	}
	w.finish()
}

func TestGoAwayFlood(t *testing.T) {
	w, c, b := pair(t)
	c.request(true)
	for range testConfig.MaxGlitches + 1 {
		b.fr.WriteGoAway(1, http2.ErrCodeNo, nil)
	}
	b.send()
	if !b.closed || w.ended(backend, "glitches") != 1 {
		t.Error("the connection goes on")
	}
	want(t, c, "HEADERS 1 :status=200 grpc-status=13 lbproxy-error=backend_protocol end")
	w.finish()
}

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

// Callers are asked to leave that have been idle for longest, not those that have calls or are new.
func TestPartingWithIdleCallers(t *testing.T) {
	w := newWorld(t, "a:1")
	b := w.backend("a:1")
	first, busy, second, third := w.caller(), w.caller(), w.caller(), w.caller()
	silent := w.caller()
	for _, c := range []*peer{first, busy, second, third} {
		c.settings()
		w.pass(time.Second)
	}
	busy.request(true)
	want(t, b, "HEADERS 1 end")
	first.request(true)
	want(t, b, "HEADERS 3 end")
	b.only(3, "0")
	want(t, first, "HEADERS 1 :status=200 grpc-status=0 end")

	part := func(n, parted int) {
		t.Helper()
		if got := w.core.drainIdle(n); got != parted {
			t.Errorf("%d callers are asked to leave, want %d", got, parted)
		}
		w.step()
	}
	part(10, 0)
	w.pass(minIdle - time.Second)
	part(2, 2)
	want(t, silent, "GOAWAY 2147483647 NO_ERROR", "PING ack=false", "GOAWAY 0 NO_ERROR")
	want(t, second, "GOAWAY 2147483647 NO_ERROR", "PING ack=false")
	second.request(true) // was on its way
	want(t, b, "HEADERS 5 end")
	w.pass(time.Second)
	part(10, 2)
	for _, c := range []*peer{first, third} {
		want(t, c, "GOAWAY 2147483647 NO_ERROR", "PING ack=false")
	}
	want(t, busy)
	third.fr.WritePing(true, drainPing)
	third.send()
	want(t, third, "GOAWAY 0 NO_ERROR")
	if !third.closed || !silent.closed || second.closed || busy.closed {
		t.Error("not those are closed that have left")
	}
}
