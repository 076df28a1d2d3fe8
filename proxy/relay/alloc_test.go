package relay

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

// unary is a call whose fields are all in the tables, as bytes of which only the stream changes.
type unary struct {
	c, b              *peer
	request, response []byte
	requestIDs        []int // where the stream stands in request
	responseIDs       []int
}

func newUnary(t testing.TB) (*world, *unary) {
	w, c, b := pair(t)
	c.grow(0, 1<<30)
	b.grow(0, 1<<30)
	id := c.request(false)
	c.data(id, nil, true)
	b.respond(1)
	b.trailers(1, "0")
	u := &unary{c: c, b: b}
	u.request, u.requestIDs = c.framed(func() {
		c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block(requestFields), EndHeaders: true})
		c.fr.WriteData(1, true, make([]byte, 100))
	})
	u.response, u.responseIDs = b.framed(func() {
		b.fr.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 1, EndHeaders: true,
			BlockFragment: b.block([]string{":status", "200", "content-type", "application/grpc"}),
		})
		b.fr.WriteData(1, false, make([]byte, 100))
		b.fr.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 1, EndHeaders: true, EndStream: true,
			BlockFragment: b.block([]string{"grpc-status", "0"}),
		})
	})
	c.mute, b.mute = true, true
	return w, u
}

// framed returns what f frames, and where in it the streams' identifiers stand.
func (p *peer) framed(f func()) (frames []byte, ids []int) {
	f()
	frames = bytes.Clone(p.out.Bytes())
	p.out.Reset()
	for at := 0; at < len(frames); {
		ids = append(ids, at+5)
		at += h2.FrameHeaderLen + int(h2.ParseFrameHeader(frames[at:]).Length)
	}
	return frames, ids
}

func (u *unary) do(w *world) {
	for _, at := range u.requestIDs {
		binary.BigEndian.PutUint32(u.request[at:], u.c.c.lastID+2)
	}
	u.c.raw(u.request)
	w.flush()
	for _, at := range u.responseIDs {
		binary.BigEndian.PutUint32(u.response[at:], u.b.c.nextID-2)
	}
	u.b.raw(u.response)
	w.flush()
}

func TestUnaryDoesNotAllocate(t *testing.T) {
	w, u := newUnary(t)
	for range 100 {
		u.do(w)
	}
	if got := testing.AllocsPerRun(1000, func() { u.do(w) }); got != 0 {
		t.Errorf("a call makes %v allocations", got)
	}
	if len(u.c.c.streams) != 0 || u.c.c.lastID < 2000 || u.c.c.dead {
		t.Error("the calls have not been made")
	}
	w.finish()
}

func BenchmarkUnary(b *testing.B) {
	w, u := newUnary(b)
	b.ReportAllocs()
	for b.Loop() {
		u.do(w)
	}
}
