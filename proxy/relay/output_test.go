package relay

import (
	"bytes"
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
	buf := b.c.ReadBuf()
	b.c.Conn.Feed(copy(buf, frames))
	f := c.c.Conn.Output()
	chunks := f.Chunks(make([][]byte, 0, 4))
	if len(chunks) != 1 || len(chunks[0]) != len(frames) || &chunks[0][0] != &buf[0] {
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
	if c.c.Held() < 3*3*maxFrameSize {
		t.Errorf("a connection that holds %d bytes is charged with %d", len(want), c.c.Held())
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
	held := w.core.memory.used
	c.pause()
	c.grow(1, 1<<20)
	chunks := c.pending.Chunks(make([][]byte, 0, 10))
	if len(chunks) != 6 || len(chunks[1]) != maxFrameSize || w.core.memory.used > held+2<<10 {
		t.Errorf("3 frames are written in %d pieces, and %d bytes more are held", len(chunks), w.core.memory.used-held)
	}
	if got := c.c.Stream(1).Held(); got != 0 {
		t.Errorf("a queue that has been sent holds %d bytes", got)
	}
	c.resume()
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
			if s := c.c.Stream(1); s == nil || c.c.State().Unwritten != 0 || s.Queued() != 0 {
				t.Error("they have not been passed on")
			}
			w.finish()
		})
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
	if len(c.c.Unread()) > 0 || c.c.State().Unparsed > 0 {
		t.Error("something is kept of frames that have been passed on")
	}
	w.finish()
}
