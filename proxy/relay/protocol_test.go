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

func TestInformationalResponses(t *testing.T) {
	t.Run("pass", func(t *testing.T) {
		w, c, b := pair(t)
		c.request(true)
		b.headers(1, false, ":status", "100")
		b.headers(1, false, ":status", "103", "x", "early")
		b.only(1, "0")
		want(t, c, "HEADERS 1 :status=100", "HEADERS 1 :status=103 x=early", "HEADERS 1 :status=200 grpc-status=0 end")
		w.finish()
	})
	t.Run("do not last for ever", func(t *testing.T) {
		w, c, b := pair(t)
		w.core.limits.MaxGlitches = 100
		c.request(true)
		n := 0
		for ; !b.c.Dead() && n < 200; n++ {
			b.headers(1, false, ":status", "103")
		}
		if got := w.ended(backend, "glitches"); n > 101 || got != 1 {
			t.Errorf("the connection ended after %d informational responses, %d of glitches", n, got)
		}
		got := c.got()
		if last := got[len(got)-1]; last != "HEADERS 1 :status=200 grpc-status=13 lbproxy-error=backend_protocol end" {
			t.Errorf("the caller got %q in the end", last)
		}
		w.finish()
	})
	t.Run("do not end a stream", func(t *testing.T) {
		w, c, b := pair(t)
		c.request(true)
		b.headers(1, true, ":status", "103")
		want(t, c, "HEADERS 1 :status=200 grpc-status=13 lbproxy-error=backend_protocol end")
		want(t, b, "HEADERS 1 end", "RST 1 PROTOCOL_ERROR")
		w.finish()
	})
}

func TestStatusThatIsNone(t *testing.T) {
	for _, fields := range [][]string{
		{":status", "2o0"},
		{":status", "20"},
		{":status", "2000"},
		{":status", "099"},
		{":status", "+20"},
		{":status", "1:0"},
		{":status", ""},
		{":status", "200", ":status", "200"},
		{"x", "y", ":status", "200"},
		{"content-type", "application/grpc"},
		{":path", "/"},
		nil,
	} {
		t.Run(strings.Join(fields, " "), func(t *testing.T) {
			w, c, b := pair(t)
			c.request(true)
			b.headers(1, false, fields...)
			want(t, c, "HEADERS 1 :status=200 grpc-status=13 lbproxy-error=backend_protocol end")
			want(t, b, "HEADERS 1 end", "RST 1 PROTOCOL_ERROR")
			w.finish()
		})
	}
}

// requestInFragments makes the first request, of a field block that takes more than one frame.
func (p *peer) requestInFragments(block []byte) {
	p.streams[1] = &peerStream{}
	p.next = 3
	p.inFragments(1, true, maxFrameSize, block)
}

// inFragments sends a field block in frames of at most a size.
func (p *peer) inFragments(id uint32, end bool, size int, block []byte) {
	first := min(len(block), size)
	p.fr.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: block[:first], EndStream: end, EndHeaders: first == len(block),
	})
	for block = block[first:]; len(block) > 0; {
		n := min(len(block), size)
		p.fr.WriteContinuation(id, n == len(block), block[:n])
		block = block[n:]
	}
	p.send()
}

// A block's size must not be taken for what is left of it in 32 bits.
func TestHeaderListBeyond32Bits(t *testing.T) {
	w, c, b := pair(t)
	w.core.limits.MaxHeaderList = 1 << 31
	const value = 4000
	block := bytes.Clone(c.block(append(requestFields[:len(requestFields):len(requestFields)], filling(value)...)))
	const newest = 0x80 | 62 // the entry that was added last
	block = append(block, bytes.Repeat([]byte{newest}, (1<<32)/(value+len("long")+32))...)
	c.requestInFragments(block)
	want(t, c, "RST 1 ENHANCE_YOUR_CALM")
	want(t, b)
	c.request(true)
	want(t, b, "HEADERS 1 end")
	w.finish()
}

// A list as long as is allowed may come in as many fragments as it takes.
func TestFieldsInManyFragments(t *testing.T) {
	w, c, b := pair(t)
	w.core.limits.MaxHeaderList = 4 << 20
	fields := slices.Clone(requestFields)
	for i := range 1000 {
		fields = append(fields, fmt.Sprint("long-", i), strings.Repeat("v", 3500))
	}
	block := bytes.Clone(c.block(fields))
	if n := len(block) / maxFrameSize; n <= 128 {
		t.Fatalf("%d fragments are too few for this test", n)
	}
	c.requestInFragments(block)
	want(t, c)
	want(t, b, "HEADERS 1 end")
	w.finish()
}

// The proxy's own statuses wait behind DATA; each is its call's.
func TestStatusesThatWait(t *testing.T) {
	w := newWorld(t, "a:1", "b:1")
	a := w.backend("a:1")
	c := w.caller()
	c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 0})
	c.request(true, "grpc-timeout", "1S")
	c.request(true)
	c.request(true)
	for _, id := range []uint32{1, 3, 5} {
		a.respond(id)
		a.data(id, []byte("held"), false)
	}
	w.pass(time.Second)
	a.reset(5, http2.ErrCodeInternal)
	a.end()
	c.got()
	for _, id := range []uint32{1, 3, 5} {
		c.grow(id, 100)
	}
	want(t, c,
		"DATA 1 4", "HEADERS 1 grpc-status=4 lbproxy-error=deadline end",
		"DATA 3 4", "HEADERS 3 grpc-status=14 lbproxy-error=backend_lost end",
		"DATA 5 4", "HEADERS 5 grpc-status=13 lbproxy-error=backend_protocol end")
	w.finish()
}

func TestTrailersOfTheCaller(t *testing.T) {
	t.Run("pass", func(t *testing.T) {
		w, c, b := pair(t)
		id := c.request(false)
		c.data(id, []byte("body"), false)
		c.headers(id, true, "x", "trailer")
		want(t, b, "HEADERS 1", "DATA 1 4", "HEADERS 1 x=trailer end")
		b.only(1, "0")
		want(t, c, "HEADERS 1 :status=200 grpc-status=0 end")
		w.finish()
	})
	t.Run("pass behind DATA that waits", func(t *testing.T) {
		w, c, b := pair(t, setting{ID: http2.SettingInitialWindowSize, Val: 0})
		id := c.request(false)
		c.data(id, []byte("body"), false)
		c.headers(id, true, "x", "trailer")
		want(t, b, "HEADERS 1")
		b.grow(1, 100)
		want(t, b, "DATA 1 4", "HEADERS 1 x=trailer end")
		w.finish()
	})
	t.Run("pass to an endpoint that comes later", func(t *testing.T) {
		w := newWorld(t, "a:1")
		c := w.caller()
		c.settings()
		id := c.request(false)
		c.headers(id, true, "x", "trailer")
		want(t, w.backend("a:1"), "HEADERS 1", "HEADERS 1 x=trailer end")
		w.finish()
	})
	t.Run("are not sent again", func(t *testing.T) {
		w := newWorld(t, "a:1", "b:1")
		a := w.backend("a:1")
		c := w.caller()
		c.settings()
		id := c.request(false)
		c.data(id, []byte("body"), false)
		c.headers(id, true, "x", "trailer")
		b := w.backend("b:1")
		a.reset(1, http2.ErrCodeRefusedStream)
		want(t, b)
		want(t, c, "RST 1 REFUSED_STREAM")
		w.finish()
	})
}

func TestStreamWindowFollowsItsReader(t *testing.T) {
	// send sends all that the peer may, so many times, and returns how much it may send then.
	send := func(p *peer, id uint32, times int) int64 {
		for range times {
			if n := p.streams[id].credit; n > 0 {
				p.data(id, make([]byte, n), false)
			}
		}
		return p.streams[id].credit
	}
	for _, tt := range []struct {
		name string
		from side
	}{
		{"up", caller},
		{"down", backend},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c, b := pair(t)
			from, to := c, b
			if tt.from == backend {
				from, to = b, c
			}
			to.settings(setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
			to.grow(0, 1<<30)
			c.request(false)
			b.respond(1)
			if got := send(from, 1, 20); got <= quickWindow/2 || got > quickWindow {
				t.Errorf("a call that is read quickly may send %d bytes, want more than half of %d", got, quickWindow)
			}
			to.settings(setting{ID: http2.SettingInitialWindowSize, Val: 0})
			c.request(false)
			b.respond(3)
			if got := send(from, 3, 5); got != 0 {
				t.Errorf("a call that is not read may send %d bytes more", got)
			}
			for range 3 * quickWindow / 1000 { // read little by little, with more behind it all the time
				to.grow(3, 1000)
				send(from, 3, 1)
				w.pass(time.Millisecond)
			}
			if w := from.c.Stream(3).Window(); w.Held() > streamWindow {
				t.Errorf("%d bytes are held of a call that is read slowly, want at most %d", w.Held(), streamWindow)
			}
			w.finish()
		})
	}
}
