package relay

import (
	"bytes"
	"encoding/binary"
	"fmt"
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
		binary.BigEndian.PutUint32(u.request[at:], u.c.c.State().LastID+2)
	}
	u.c.raw(u.request)
	w.core.flush()
	for _, at := range u.responseIDs {
		binary.BigEndian.PutUint32(u.response[at:], u.b.c.State().NextID-2)
	}
	u.b.raw(u.response)
	w.core.flush()
}

func TestUnaryDoesNotAllocate(t *testing.T) {
	w, u := newUnary(t)
	for range 100 {
		u.do(w)
	}
	if got := testing.AllocsPerRun(1000, func() { u.do(w) }); got != 0 {
		t.Errorf("a call makes %v allocations", got)
	}
	if u.c.c.Len() != 0 || u.c.c.State().LastID < 2000 || u.c.c.Dead() {
		t.Error("the calls have not been made")
	}
	w.finish()
}

// Values that are new in every call cost a string each, and nothing else.
func TestNewValuesAllocateNoMoreThanThemselves(t *testing.T) {
	w, c, b := pair(t)
	c.mute, b.mute = true, true
	c.grow(0, 1<<30)
	const calls = 1200
	var requests, responses [][]byte
	for i := range calls {
		frames, _ := c.framed(func() {
			fields := append(requestFields[:len(requestFields):len(requestFields)],
				"traceparent", fmt.Sprintf("00-0af7651916cd43dd8448eb211c8%05d-b7ad6b7169203331-01", i),
				"grpc-timeout", fmt.Sprintf("%dm", 10_000+i))
			c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(1 + 2*i), BlockFragment: c.block(fields), EndHeaders: true, EndStream: true})
		})
		requests = append(requests, frames)
		frames, _ = b.framed(func() {
			b.fr.WriteHeaders(http2.HeadersFrameParam{
				StreamID: uint32(1 + 2*i), EndHeaders: true, EndStream: true,
				BlockFragment: b.block([]string{":status", "200", "content-type", "application/grpc", "grpc-status", "0"}),
			})
		})
		responses = append(responses, frames)
	}
	i := 0
	call := func() {
		c.raw(requests[i])
		w.core.flush()
		b.raw(responses[i])
		w.core.flush()
		i++
	}
	for range 100 {
		call()
	}
	if got := testing.AllocsPerRun(1000, call); got > 2 {
		t.Errorf("a call with two new values makes %v allocations", got)
	}
	if c.c.Len() != 0 || int(c.c.State().LastID) != 2*i-1 || c.c.Dead() {
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
