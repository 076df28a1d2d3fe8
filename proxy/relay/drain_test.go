package relay

import (
	"testing"
	"time"
)

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
