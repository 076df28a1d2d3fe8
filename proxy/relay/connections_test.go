package relay

import (
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/proxy/h2"
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

// renewed is a connection for the instance's next registration.
func (w *world) renewed(addr string) *peer {
	pool := w.pools[addr]
	pool.all.generation.Add(1)
	p := w.dialled(addr)
	p.c.handshake.generation = pool.all.generation.Load()
	return p
}

func TestRenewedConnections(t *testing.T) {
	t.Run("calls go to the new one when it is ready", func(t *testing.T) {
		w, c, old := pair(t)
		c.request(true)
		renewed := w.renewed("a:1")
		c.request(true)
		want(t, old, "HEADERS 1 end", "HEADERS 3 end")
		renewed.settings()
		renewed.got()
		c.request(true)
		want(t, renewed, "HEADERS 1 end")
		old.only(1, "0")
		if old.closed {
			t.Error("the old connection has ended before its last call")
		}
		old.only(3, "0")
		renewed.only(1, "0")
		want(t, c, "HEADERS 1 :status=200 grpc-status=0 end", "HEADERS 3 :status=200 grpc-status=0 end",
			"HEADERS 5 :status=200 grpc-status=0 end")
		if !old.closed || renewed.closed {
			t.Error("the old connection goes on, or the new one does not")
		}
		w.finish()
	})
	t.Run("one without calls ends at once", func(t *testing.T) {
		w, _, old := pair(t)
		w.renewed("a:1").settings()
		if !old.closed || w.ended(backend, "finished") != 1 {
			t.Error("the old connection goes on")
		}
		w.finish()
	})
	t.Run("one that is not made leaves all as it was", func(t *testing.T) {
		w, c, old := pair(t)
		w.renewed("a:1").end()
		c.request(true)
		want(t, old, "HEADERS 1 end")
		w.finish()
	})
	t.Run("additional ones go, too, now and later", func(t *testing.T) {
		w, c, first, second := two(t)
		late := w.connected("a:1", true)
		w.renewed("a:1").settings()
		late.settings()
		for range 2 {
			c.request(true)
		}
		want(t, late)
		first.only(1, "0")
		second.only(1, "0")
		if !first.closed || !second.closed || !late.closed {
			t.Error("a connection for the old registration goes on")
		}
		w.finish()
	})
}

// two is a pair whose backend has two connections, with a call on each, neither of which takes more.
func two(t *testing.T) (w *world, c, first, second *peer) {
	w, c, first = pair(t, oneStream)
	c.request(true)
	c.request(true)
	second = w.additional("a:1", oneStream)
	want(t, first, "HEADERS 1 end")
	want(t, second, "HEADERS 1 end")
	return w, c, first, second
}

func TestAdditionalConnectionIdle(t *testing.T) {
	w, c, first, second := two(t)
	w.pass(10 * additionalIdle)
	if second.closed {
		t.Fatal("the connection has ended while a call runs")
	}
	second.only(1, "0")
	w.pass(additionalIdle - time.Second)
	c.request(true)
	want(t, second, "HEADERS 3 end")
	w.pass(10 * additionalIdle)
	second.only(3, "0")
	w.pass(additionalIdle - time.Second)
	if second.closed {
		t.Error("the connection has ended before its time")
	}
	w.pass(time.Second)
	if !second.closed || w.ended(backend, "finished") != 1 {
		t.Error("the connection goes on without calls")
	}
	first.only(1, "0")
	w.pass(10 * additionalIdle)
	if first.closed {
		t.Error("the first connection has ended, too")
	}
	w.finish()
}

func TestOneOfTwoConnections(t *testing.T) {
	for _, tt := range []struct {
		name   string
		second bool // which of them it is that ends
		end    func(b *peer)
		lost   bool
	}{
		{"the first goes away", false, func(b *peer) { b.goAway(h2.MaxStreamID) }, false},
		{"the second goes away", true, func(b *peer) { b.goAway(h2.MaxStreamID) }, false},
		{"the first is lost", false, (*peer).end, true},
		{"the second is lost", true, (*peer).end, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c, stays, goes := two(t)
			lost, stayed := "HEADERS 3", "HEADERS 1"
			if !tt.second {
				stays, goes, lost, stayed = goes, stays, stayed, lost
			}
			c.request(true)
			tt.end(goes)
			if tt.lost {
				want(t, c, lost+" :status=200 grpc-status=14 lbproxy-error=backend_lost end")
			} else {
				goes.only(1, "0")
				want(t, c, lost+" :status=200 grpc-status=0 end")
			}
			if !goes.closed || stays.closed {
				t.Error("the connection goes on, or the other does not")
			}
			want(t, goes)
			stays.only(1, "0")
			want(t, c, stayed+" :status=200 grpc-status=0 end")
			want(t, stays, "HEADERS 3 end")
			stays.only(3, "0")
			want(t, c, "HEADERS 5 :status=200 grpc-status=0 end")
			if n := w.metric("lbproxy_endpoint_waiting"); n != 0 {
				t.Errorf("%v calls wait for a stream", n)
			}
			w.finish()
		})
	}
	t.Run("both go away", func(t *testing.T) {
		w, c, first, second := two(t)
		c.request(true)
		first.goAway(1)
		second.goAway(1)
		w.disconnected("a:1")
		want(t, w.backend("a:1", oneStream), "HEADERS 1 end")
		first.only(1, "0")
		second.only(1, "0")
		if !first.closed || !second.closed {
			t.Error("a connection goes on after its last call")
		}
		want(t, c, "HEADERS 1 :status=200 grpc-status=0 end", "HEADERS 3 :status=200 grpc-status=0 end")
		w.finish()
	})
}

func TestStreamIDsUsedUp(t *testing.T) {
	w, c, b := pair(t)
	b.c.SkipTo(h2.MaxStreamID - 2)
	link := b.c.handshake.watcher.(*dialled)
	c.request(true)
	select {
	case <-link.over:
		t.Fatal("the connection is given up with one identifier left")
	default:
	}
	c.request(true)
	want(t, b, "HEADERS 2147483645 end", "HEADERS 2147483647 end")
	select {
	case <-link.over:
	default:
		t.Fatal("no other connection is wanted")
	}
	if b.c.handshake.err != errExhausted {
		t.Errorf("the connection is given up because of: %v", b.c.handshake.err)
	}
	c.request(true)
	want(t, b)
	w.disconnected("a:1")
	want(t, w.backend("a:1"), "HEADERS 1 end")
	b.only(h2.MaxStreamID-2, "0")
	if b.closed {
		t.Error("the connection has ended before its last call")
	}
	b.only(h2.MaxStreamID, "0")
	want(t, c, "HEADERS 1 :status=200 grpc-status=0 end", "HEADERS 3 :status=200 grpc-status=0 end")
	if !b.closed {
		t.Error("the connection goes on")
	}
	w.finish()
}

// Who waited for a stream has a connection to wait for, and does not so for ever.
func TestLastConnectionLost(t *testing.T) {
	w, c, b := pair(t, oneStream)
	c.request(true)
	c.request(true)
	w.pass(time.Hour)
	b.end()
	want(t, c, "HEADERS 1 :status=200 grpc-status=14 lbproxy-error=backend_lost end")
	w.pass(time.Second)
	want(t, c, "HEADERS 3 :status=200 grpc-status=14 lbproxy-error=no_ready_endpoint end")
	w.finish()
}

// A backend that breaks the protocol ends its connection. What it may have begun must not be sent again.
func TestBackendViolation(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(b *peer)
	}{
		{"a stream that was never opened", func(b *peer) { b.fr.WriteData(99, false, nil) }},
		{"a frame that is too long", func(b *peer) { b.fr.WriteData(1, false, make([]byte, maxFrameSize+1)) }},
		{"PUSH_PROMISE", func(b *peer) {
			b.fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		}},
		{"a window beyond bounds", func(b *peer) { b.fr.WriteWindowUpdate(0, h2.MaxWindow) }},
		{"HPACK that is none", func(b *peer) {
			b.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x80}, EndHeaders: true})
		}},
		{"a flood", func(b *peer) {
			for range testConfig.MaxGlitches + 1 {
				b.fr.WritePing(false, [8]byte{})
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, "a:1", "b:1")
			bad := w.backend("a:1")
			c := w.caller()
			c.settings()
			c.request(true)
			bad.pause()
			c.request(true) // is given out, if not read
			c.request(true) // is not
			good := w.backend("b:1")
			tt.do(bad)
			bad.send()
			if !bad.closed || good.closed || c.closed {
				t.Error("the backend's connection goes on, or another does not")
			}
			w.disconnected("a:1")
			want(t, good, "HEADERS 1 end")
			good.only(1, "0")
			got := map[string]bool{}
			for _, f := range c.got() {
				got[f] = true
			}
			for _, f := range []string{
				"HEADERS 1 :status=200 grpc-status=13 lbproxy-error=backend_protocol end",
				"HEADERS 3 :status=200 grpc-status=13 lbproxy-error=backend_protocol end",
				"HEADERS 5 :status=200 grpc-status=0 end",
			} {
				if !got[f] {
					t.Errorf("the caller has not got %q but %v", f, got)
				}
			}
			w.finish()
		})
	}
}
