package relay

import (
	"bytes"
	"slices"
	"testing"

	"golang.org/x/net/http2"
)

// download is a call whose response a caller reads that has wide windows.
func download(t *testing.T) (w *world, c, b *peer) {
	w, c, b = pair(t)
	c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	c.grow(0, 1<<30)
	c.request(true)
	b.respond(1)
	return w, c, b
}

// frames is DATA of a stream in so many of the longest frames, each of other bytes.
func (p *peer) frames(id uint32, n int) (frames, data []byte) {
	frames, _ = p.framed(func() {
		for i := range n {
			payload := bytes.Repeat([]byte{byte('a' + i)}, maxFrameSize)
			p.fr.WriteData(id, false, payload)
			data = append(data, payload...)
		}
	})
	return frames, data
}

// Frames that come together go together, and from where they stand.
func TestDataIsWrittenFromWhereItWasRead(t *testing.T) {
	w, c, b := download(t)
	frames, data := b.frames(1, 3)
	n := copy(b.c.ReadBuf(), frames)
	b.c.feed(n)
	f := c.c.output()
	chunks := f.Chunks(make([][]byte, 0, 4))
	if len(chunks) != 1 || len(chunks[0]) != len(frames) || &chunks[0][0] != &b.c.in[0] {
		t.Errorf("3 frames are written in %d pieces", len(chunks))
	}
	c.take(f)
	w.core.flush()
	if !bytes.Equal(c.streams[1].received, data) {
		t.Error("the caller got other bytes")
	}
	w.finish()
}

// A peer that reads slowly gets what was sent, whatever is read meanwhile to where it stood.
func TestDataOutlivesTheReadBuffer(t *testing.T) {
	w, c, b := download(t)
	c.pause()
	var want []byte
	for range 3 {
		frames, data := b.frames(1, 3)
		b.raw(frames)
		want = append(want, data...)
		w.step()
	}
	if c.c.charged < 3*3*maxFrameSize {
		t.Errorf("a connection that holds %d bytes is charged with %d", len(want), c.c.charged)
	}
	c.resume()
	if !bytes.Equal(c.streams[1].received, want) {
		t.Error("the caller got other bytes")
	}
	w.finish()
}

// What has waited for a window is written from where it waited.
func TestQueuedDataIsWrittenFromWhereItStands(t *testing.T) {
	w, c, b := pair(t)
	c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 0})
	c.grow(0, 1<<30)
	c.request(true)
	b.respond(1)
	frames, data := b.frames(1, 3)
	b.raw(frames)
	first := c.c.streams[1].streams[caller].queue.first
	c.c.writing = true // no more is taken for now
	c.grow(1, 1<<20)
	if len(c.c.pieces) != 3 || c.c.pieces[0].block != first {
		t.Errorf("3 frames are written in %d pieces", len(c.c.pieces))
	}
	if got := c.c.streams[1].streams[caller].queue; got != (queue{}) {
		t.Errorf("a queue that has been sent is %+v", got)
	}
	c.c.writing = false
	c.c.mark()
	w.step()
	if !bytes.Equal(c.streams[1].received, data) {
		t.Error("the caller got other bytes")
	}
	w.finish()
}

func TestLongDataDoesNotAllocate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		window uint32
	}{
		{"as it comes", 1 << 30},
		{"by a queue", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c, b := pair(t)
			c.settings(setting{ID: http2.SettingInitialWindowSize, Val: tt.window})
			c.grow(0, 1<<30)
			c.request(true)
			b.respond(1)
			b.mute, c.mute = true, true
			frames, data := b.frames(1, 2)
			update, _ := c.framed(func() { c.fr.WriteWindowUpdate(1, uint32(len(data))) })
			pass := func() {
				b.raw(frames)
				w.core.flush()
				c.raw(update)
				w.core.flush()
			}
			for range 100 {
				pass()
			}
			if got := testing.AllocsPerRun(200, pass); got != 0 {
				t.Errorf("2 frames make %v allocations", got)
			}
			if x := c.c.streams[1]; x == nil || c.c.unwritten() != 0 || x.streams[caller].queue.len != 0 {
				t.Error("they have not been passed on")
			}
			w.finish()
		})
	}
}

func TestFlight(t *testing.T) {
	whole := func() *flight {
		return &flight{frames: []byte("abcdef"), pieces: []piece{
			{at: 0, data: []byte("1")}, {at: 2, data: []byte("234")}, {at: 2, data: []byte("5")}, {at: 6, data: []byte("67")},
		}}
	}
	const want = "1ab2345cdef67"
	for step := 1; step <= len(want); step++ {
		f, got := whole(), ""
		for !f.Empty() {
			rest := string(f.Append(nil))
			chunks := slices.Concat(f.Chunks(make([][]byte, 0, 10))...)
			if rest != want[len(got):] || string(chunks) != rest {
				t.Fatalf("behind %q stands %q, in chunks %q", got, rest, chunks)
			}
			n := min(step, len(rest))
			got += rest[:n]
			f.Advance(n)
		}
		if got != want {
			t.Errorf("in steps of %d: %q, want %q", step, got, want)
		}
	}
	if got := whole().Chunks(make([][]byte, 0, 2)); len(got) != 2 || string(got[1]) != "ab" {
		t.Errorf("the first two chunks are %q", got)
	}
}

// Connections are read to one buffer in turn, so that many of which part of a frame has come cost what has come.
func TestPartsOfFrames(t *testing.T) {
	w, c, b := pair(t)
	hoard := w.caller()
	hoard.settings()
	id := c.request(false)
	other := hoard.request(false)
	frame := func(p *peer, id uint32, fill byte) []byte {
		frames, _ := p.framed(func() { p.fr.WriteData(id, false, bytes.Repeat([]byte{fill}, 1000)) })
		return frames
	}
	before := w.core.memory.used
	ours, theirs := frame(c, id, 'a'), frame(hoard, other, 'b')
	for len(ours) > 0 {
		n := min(300, len(ours))
		c.raw(ours[:n])
		hoard.raw(theirs[:n])
		ours, theirs = ours[n:], theirs[n:]
		if held := w.core.memory.used - before; len(ours) > 0 && (held < 2*n || held > 4*1024) {
			t.Errorf("parts of two frames of 1000 bytes are charged with %d", held)
		}
		w.check()
	}
	w.core.flush()
	for id, fill := range map[uint32]byte{1: 'a', 3: 'b'} {
		if got := b.streams[id].received; !bytes.Equal(got, bytes.Repeat([]byte{fill}, 1000)) {
			t.Errorf("the backend got %d bytes on stream %d, or others", len(got), id)
		}
	}
	if w.core.readBuffer == nil || c.c.in != nil || c.c.unparsed != nil {
		t.Error("something is kept of frames that have been passed on")
	}
	w.finish()
}
