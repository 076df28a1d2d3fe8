package relay

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// closings are the ways in which we close stream 1 of a caller and of a backend. They return those peers that may
// still send on it, because they do not know.
var closings = []struct {
	name  string
	close func(w *world, c, b *peer) (unaware []*peer)
}{
	{"the backend answers before the request has ended", func(w *world, c, b *peer) []*peer {
		c.request(false)
		b.only(1, "3")
		return []*peer{c}
	}},
	{"the caller cancels", func(w *world, c, b *peer) []*peer {
		c.request(false)
		b.respond(1)
		c.reset(1, http2.ErrCodeCancel)
		return []*peer{b}
	}},
	{"the caller is killed", func(w *world, c, b *peer) []*peer {
		c.request(false)
		b.respond(1)
		c.end()
		return []*peer{b}
	}},
	{"the deadline runs out", func(w *world, c, b *peer) []*peer {
		c.request(false, "grpc-timeout", "1S")
		b.respond(1)
		w.pass(time.Second)
		return []*peer{c, b}
	}},
	{"the memory is used up", func(w *world, c, b *peer) []*peer {
		c.request(false)
		b.respond(1)
		callOf(c.c, 1).discard(w.core)
		w.step()
		return []*peer{c, b}
	}},
	{"the proxy ends", func(w *world, c, b *peer) []*peer {
		c.request(false)
		b.respond(1)
		w.core.failAll()
		w.step()
		return []*peer{b}
	}},
	{"the backend breaks the protocol", func(w *world, c, b *peer) []*peer {
		c.request(false)
		b.headers(1, false, ":status", "none")
		return []*peer{c, b}
	}},
	{"the caller breaks the protocol", func(w *world, c, b *peer) []*peer {
		c.request(false)
		b.respond(1)
		c.grow(1, 1<<31-1)
		return []*peer{c, b}
	}},
	{"the request is rejected", func(w *world, c, b *peer) []*peer {
		w.core.limits.MaxStreams = 0
		c.request(false)
		w.core.limits.MaxStreams = testConfig.MaxStreams
		return []*peer{c}
	}},
}

// late sends all that may be on its way on stream 1.
func (p *peer) late() {
	for range 1000 {
		p.fr.WriteData(1, false, []byte("\x00\x00\x00\x00\x01x"))
	}
	p.fr.WriteDataPadded(1, false, nil, make([]byte, 9))
	p.fr.WriteData(1, false, nil)
	p.fr.WriteWindowUpdate(1, 1)
	p.fr.WritePriority(1, http2.PriorityParam{StreamDep: 3})
	block := p.block([]string{"x", "new to the table"})
	p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:2], EndStream: true})
	p.fr.WriteContinuation(1, true, block[2:])
	p.fr.WriteWindowUpdate(1, 1)
	p.fr.WriteRSTStream(1, http2.ErrCodeNo)
	p.send()
}

// What was on its way to a stream that we have closed is ignored (RFC 9113, sections 5.1 and 5.4.2).
func TestFramesThatCrossAReset(t *testing.T) {
	for _, tt := range closings {
		t.Run(tt.name, func(t *testing.T) {
			w, c, b := pair(t)
			for _, p := range tt.close(w, c, b) {
				p.got()
				before := p.c.State()
				p.late()
				want(t, p)
				if unfair(p.c, before) {
					t.Errorf("what the %s could not know is held against it: %+v, before %+v", p.side, p.c.State(), before)
				}
			}
			if c.closed {
				c = w.caller()
				c.settings()
			}
			b.got()
			id := c.request(true, "x", "new to the table") // by its index, where the caller's trailers have put it
			b.headers(b.c.State().NextID-2, true, ":status", "200", "grpc-status", "0", "x", "new to the table")
			want(t, b, fmt.Sprintf("HEADERS %d x=new to the table end", b.c.State().NextID-2))
			if got := c.got(); got[len(got)-1] != fmt.Sprintf("HEADERS %d :status=200 grpc-status=0 x=new to the table end", id) {
				t.Errorf("the caller got %q", got)
			}
			w.finish()
		})
	}
}

// A backend that goes away may reset by itself what it has not begun.
func TestResetsBehindGoAway(t *testing.T) {
	w, c, b := pair(t)
	c.request(true)
	c.request(true)
	b.goAway(1)
	before := b.c.State()
	b.fr.WriteRSTStream(3, http2.ErrCodeRefusedStream)
	b.send()
	if unfair(b.c, before) {
		t.Errorf("that is held against it: %+v, before %+v", b.c.State(), before)
	}
	b.only(1, "0")
	want(t, c, "HEADERS 1 :status=200 grpc-status=0 end")
	w.finish()
}

// So may whoever does not know yet that a stream has ended on both sides, as long as there are such streams.
func TestFramesThatCrossTheEnd(t *testing.T) {
	const calls, most = 500, 100
	for _, s := range []side{caller, backend} {
		t.Run(s.String(), func(t *testing.T) {
			w, c, b := pair(t)
			w.core.limits.MaxGlitches = most
			for range calls {
				b.only(c.request(true), "0")
			}
			p := [...]*peer{caller: c, backend: b}[s]
			p.got()
			before := p.c.State().InARow
			for id := uint32(1); id < 2*calls; id += 2 {
				p.fr.WriteWindowUpdate(id, 1)
				p.fr.WriteRSTStream(id, http2.ErrCodeCancel)
			}
			p.send()
			want(t, p)
			if got := p.c.State().InARow; got != before {
				t.Errorf("%d glitches are counted, before %d", got, before)
			}
			n := 0
			for ; !p.c.Dead() && n <= most; n++ {
				p.fr.WriteWindowUpdate(1, 1)
				p.send()
			}
			if w.ended(s, "glitches") != 1 {
				t.Errorf("a flood of %d frames does not end the connection", n)
			}
			w.finish()
		})
	}
}

// All that one caller had running may end at once, and others' calls go on.
func TestManyFramesThatCrossResets(t *testing.T) {
	const calls = 9000
	w, c, b := pair(t)
	other := w.caller()
	other.settings()
	other.request(true)
	block := bytes.Clone(c.block(requestFields))
	for id := uint32(1); id < 2*calls; id += 2 {
		c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true})
		block = c.block(requestFields)
	}
	c.send()
	c.end()
	before := b.c.State()
	for id := uint32(3); id <= 2*calls; id += 2 {
		b.fr.WriteHeaders(http2.HeadersFrameParam{
			StreamID: id, EndHeaders: true, BlockFragment: b.block([]string{":status", "200", "content-type", "application/grpc"}),
		})
		b.fr.WriteData(id, false, make([]byte, 6))
		b.fr.WriteData(id, false, make([]byte, 6))
		b.fr.WriteWindowUpdate(id, 1)
		b.fr.WriteRSTStream(id, http2.ErrCodeNo)
	}
	b.send()
	if b.closed || unfair(b.c, before) {
		t.Fatalf("that is held against it: %+v, before %+v; the connection has ended: %v", b.c.State(), before, b.closed)
	}
	b.only(1, "0")
	want(t, other, "HEADERS 1 :status=200 grpc-status=0 end")
	w.pass(2 * crossingTime)
	if n := w.core.memory.remembered; n != 0 {
		t.Errorf("there is still room for %d", n)
	}
	w.finish()
}

// What could not have been on its way is a flood.
func TestFloodsOnStreamsThatWeClosed(t *testing.T) {
	const most = 1000
	trailers := func(p *peer) {
		p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block([]string{"x", "y"}), EndHeaders: true})
	}
	data := func(p *peer) { p.fr.WriteData(1, false, []byte("x")) }
	for _, tt := range []struct {
		name    string
		before  func(w *world, p *peer)
		frame   func(p *peer)
		allowed int // before they are counted
	}{
		{"DATA beyond the window", nil, func(p *peer) { p.fr.WriteData(1, false, make([]byte, 1000)) }, streamWindow / 1000},
		{"empty DATA", nil, func(p *peer) { p.fr.WriteData(1, false, nil) }, crossingFrames},
		{"WINDOW_UPDATE", nil, func(p *peer) { p.fr.WriteWindowUpdate(1, 1) }, crossingFrames},
		{"WINDOW_UPDATE by 0", nil, func(p *peer) { p.fr.WriteWindowUpdate(1, 0) }, 0},
		{"PRIORITY", nil, func(p *peer) { p.fr.WritePriority(1, http2.PriorityParam{}) }, crossingFrames},
		{"HEADERS", nil, trailers, crossingFrames},
		{"RST_STREAM", nil, func(p *peer) { p.fr.WriteRSTStream(1, http2.ErrCodeCancel) }, 1},
		{"DATA behind END_STREAM", func(w *world, p *peer) { p.fr.WriteData(1, true, nil) }, data, 0},
		{"HEADERS behind END_STREAM", func(w *world, p *peer) { p.fr.WriteData(1, true, nil) }, trailers, 0},
		{"DATA behind RST_STREAM", func(w *world, p *peer) { p.fr.WriteRSTStream(1, http2.ErrCodeCancel) }, data, 0},
		{"WINDOW_UPDATE long after", func(w *world, p *peer) { w.pass(2 * crossingTime) }, func(p *peer) { p.fr.WriteWindowUpdate(1, 1) }, most},
	} {
		for _, s := range []side{caller, backend} {
			t.Run(tt.name+" of a "+s.String(), func(t *testing.T) {
				w, c, b := pair(t)
				w.core.limits.MaxGlitches = most
				c.request(false)
				b.respond(1)
				callOf(c.c, 1).discard(w.core)
				w.step()
				p := [...]*peer{caller: c, backend: b}[s]
				if tt.before != nil {
					tt.before(w, p)
					p.send()
				}
				p.got()
				n := 0
				for ; !p.c.Dead() && n < 3*most; n++ {
					tt.frame(p)
					p.send()
				}
				if n > tt.allowed+most+2 || n <= tt.allowed || w.ended(s, "glitches") != 1 {
					t.Errorf("the connection ended after %d frames, of which %d are allowed; %d of glitches", n, tt.allowed, w.ended(s, "glitches"))
				}
				if got := p.got(); !slices.ContainsFunc(got, isCalm) || slices.ContainsFunc(got, isReset) {
					t.Errorf("the %s got %q", s, got)
				}
				w.finish()
			})
		}
	}
}

func isReset(frame string) bool { return strings.HasPrefix(frame, "RST ") }

// Whoever goes on after the time that frames may take gets the RFC's answers.
func TestFramesLongAfterAReset(t *testing.T) {
	w, c, b := pair(t)
	c.request(false)
	b.only(1, "3")
	c.got()
	w.pass(2 * crossingTime)
	c.data(1, []byte("x"), false)
	c.data(1, []byte("x"), false)
	want(t, c, "RST 1 STREAM_CLOSED") // once
	w.pass(2 * crossingTime)
	c.hostile = true
	c.headers(1, true, "x", "y")
	want(t, c, "GOAWAY 1 STREAM_CLOSED")
	w.finish()
}

// Streams that have ended are forgotten rather than have memory taken from calls, and those first that ended first.
func TestMemoryForCrossings(t *testing.T) {
	const room, calls = 64, 500
	w, c, b := pair(t)
	w.core.memory.limit = 2 * room * crossingSize * remembering
	for range calls {
		b.only(c.request(false), "3")
	}
	remembered := 0
	for id := uint32(1); id < 2*calls; id += 2 {
		if c.c.Remembers(id) {
			remembered++
		} else if id > 2*calls-room/4 {
			t.Errorf("stream %d, of %d, is forgotten", id, 2*calls)
		}
	}
	if remembered > room {
		t.Errorf("%d streams are remembered in a room for %d", remembered, room)
	}
	w.finish()
}
