package relay

import (
	"testing"
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

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
