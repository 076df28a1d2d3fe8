package relay

import (
	"bytes"
	"testing"

	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/proxy/h2/session"
)

// A backend that has answered early may still reset the request, and give windows for what it had read of it.
func TestFramesBehindAnEarlyAnswer(t *testing.T) {
	w, c, b := pair(t)
	c.request(false)
	b.only(1, "3")
	b.got()
	before := b.c.State()
	b.fr.WriteWindowUpdate(1, 100)
	b.fr.WriteRSTStream(1, http2.ErrCodeNo)
	b.send()
	want(t, b)
	if unfair(b.c, before) {
		t.Errorf("that is held against it: %+v, before %+v", b.c.State(), before)
	}
	w.finish()
}

// Small messages behind an early answer, as many as the window holds.
func TestSmallMessagesBehindAnEarlyAnswer(t *testing.T) {
	w, c, b := pair(t)
	c.request(false)
	b.only(1, "3")
	for range streamWindow / 6 {
		c.fr.WriteData(1, false, make([]byte, 6))
	}
	c.send()
	want(t, c, "HEADERS 1 :status=200 grpc-status=3 end", "RST 1 NO_ERROR")
	if err := c.c.Check(new(session.Audit)); err != nil {
		t.Error(err)
	}
	c.request(true)
	b.only(3, "0")
	want(t, c, "HEADERS 3 :status=200 grpc-status=0 end")
	w.finish()
}

// Calls that are answered early cost no more than others.
func TestEarlyAnswersDoNotAllocate(t *testing.T) {
	w, c, b := pair(t)
	c.grow(0, 1<<30)
	c.request(false)
	b.only(1, "3")
	u := &unary{c: c, b: b}
	u.request, u.requestIDs = c.framed(func() {
		c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: bytes.Clone(c.block(requestFields)), EndHeaders: true})
		c.fr.WriteData(1, false, make([]byte, 100))
	})
	u.response, u.responseIDs = b.framed(func() {
		b.fr.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 1, EndHeaders: true, EndStream: true,
			BlockFragment: b.block([]string{":status", "200", "content-type", "application/grpc", "grpc-status", "3"}),
		})
	})
	c.mute, b.mute = true, true
	for range maxCrossings {
		u.do(w)
	}
	if got := testing.AllocsPerRun(1000, func() { u.do(w) }); got != 0 {
		t.Errorf("a call makes %v allocations", got)
	}
	if c.c.Len() != 0 || c.c.State().LastID < 2*maxCrossings || c.c.Dead() {
		t.Error("the calls have not been made")
	}
	w.finish()
}
