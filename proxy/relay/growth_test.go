package relay

import (
	"testing"
	"time"

	"golang.org/x/net/http2"
)

var oneStream = setting{ID: http2.SettingMaxConcurrentStreams, Val: 1}

func TestGrowth(t *testing.T) {
	wantWish := func(t *testing.T, w *world, want bool) {
		t.Helper()
		if got := len(w.dialling) > 0; got != want {
			t.Fatalf("one more connection is wished for: %v, want %v", got, want)
		}
	}
	t.Run("as far as allowed", func(t *testing.T) {
		w, c, b := pair(t, oneStream)
		conns := []*peer{b}
		c.request(true)
		for len(conns) < testConfig.MaxConnections {
			wantWish(t, w, false)
			c.request(true)
			wantWish(t, w, true)
			b := w.additional("a:1", oneStream)
			want(t, b, "HEADERS 1 end")
			conns = append(conns, b)
		}
		c.request(true)
		wantWish(t, w, false)
		if n := w.metric("lbproxy_endpoint_waiting"); n != 1 {
			t.Errorf("%v calls wait for a stream", n)
		}
		conns[2].only(1, "0")
		want(t, conns[2], "HEADERS 3 end")
		w.finish()
	})
	t.Run("for all that wait", func(t *testing.T) {
		w, c, b := pair(t, oneStream)
		for range testConfig.MaxConnections + 1 {
			c.request(true)
		}
		want(t, b, "HEADERS 1 end")
		for range testConfig.MaxConnections - 1 {
			wantWish(t, w, true)
			want(t, w.additional("a:1", oneStream), "HEADERS 1 end")
		}
		wantWish(t, w, false)
		w.finish()
	})
	t.Run("not before it is known what the backend takes", func(t *testing.T) {
		w, c, _ := pair(t, oneStream)
		c.request(true)
		c.request(true)
		delete(w.dialling, w.pools["a:1"])
		more := w.connected("a:1", true)
		c.request(true)
		wantWish(t, w, false)
		want(t, more)
		more.settings(setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
		want(t, more)
		more.settings(oneStream)
		want(t, more, "HEADERS 1 end")
		w.finish()
	})
	t.Run("that fails, not at once again", func(t *testing.T) {
		w, c, b := pair(t, oneStream)
		c.request(true)
		c.request(true)
		wantWish(t, w, true)
		w.unreachable("a:1")
		c.request(true)
		wantWish(t, w, false)
		w.pass(growthPause)
		wantWish(t, w, true)
		w.unreachable("a:1")
		b.only(1, "0") // it waits on where there is a connection
		want(t, b, "HEADERS 1 end", "HEADERS 3 end")
		w.finish()
	})
}

func TestGrowthInVain(t *testing.T) {
	w, c, b := pair(t, oneStream)
	c.request(true)
	c.request(true)
	for pause := growthPause; pause < maxGrowthPause; pause *= 2 {
		w.unreachable("a:1")
		w.pass(pause - time.Millisecond)
		if len(w.dialling) > 0 {
			t.Fatalf("one more connection is wished for after less than %s", pause)
		}
		w.pass(time.Millisecond)
	}
	w.unreachable("a:1")
	w.pass(maxGrowthPause)
	second := w.additional("a:1", oneStream)
	want(t, second, "HEADERS 1 end")
	second.only(1, "0") // it is of use
	second.end()
	c.request(true)
	w.pass(growthPause)
	if len(w.dialling) == 0 {
		t.Errorf("no connection is wished for %s after one of use was lost", growthPause)
	}
	b.only(1, "0")
	w.finish()
}
