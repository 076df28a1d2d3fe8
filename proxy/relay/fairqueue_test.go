package relay

import (
	"slices"
	"testing"

	"golang.org/x/net/http2"
)

// crowd is a world of a caller that has a thousand calls and one that has one, which comes last.
func crowd(t *testing.T, settings ...setting) (w *world, many, one, b *peer) {
	w, many, b = pair(t, settings...)
	one = w.caller()
	one.settings()
	return w, many, one, b
}

const crowded = 1000

// A connection's window that is too small for all is shared among callers, not among calls.
func TestWindowIsSharedByCallers(t *testing.T) {
	w, many, one, b := crowd(t, setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	many.data(many.request(false), make([]byte, streamWindow), false) // takes all of the window
	for range crowded {
		many.data(many.request(false), make([]byte, 100), false)
	}
	one.data(one.request(false), make([]byte, 250), false)
	id := b.c.State().NextID - 2
	for _, got := range []int{100, 200, 250} {
		b.grow(0, 200) // a turn of each
		if b.received(id) != got {
			t.Fatalf("the backend got %d bytes of a call, want %d", b.received(id), got)
		}
	}
	b.grow(0, 1<<20)
	for id := uint32(3); id < 2*crowded+3; id += 2 {
		if got := b.received(id); got != 100 {
			t.Fatalf("the backend got %d bytes of call %d", got, id)
		}
	}
	w.finish()
}

func TestCallsOfACallerTakeTurns(t *testing.T) {
	w, c, b := pair(t, setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	c.data(c.request(false), make([]byte, streamWindow), false)
	for range 3 {
		c.data(c.request(false), make([]byte, 3*maxFrameSize), false)
	}
	b.got()
	for range 2 {
		b.grow(0, 3*maxFrameSize)
		want(t, b, "DATA 3 16384", "DATA 5 16384", "DATA 7 16384")
	}
	w.finish()
}

// Streams of a backend that takes fewer than there are calls are shared among callers, not among calls.
func TestStreamsAreSharedByCallers(t *testing.T) {
	w, many, one, b := crowd(t, setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
	for range crowded {
		many.request(true)
	}
	one.request(true, "x", "one")
	one.request(true, "x", "two")
	for id := uint32(1); id < 10; id += 2 {
		b.only(id, "0")
	}
	want(t, b, "HEADERS 1 end", "HEADERS 3 end", "HEADERS 5 x=one end", "HEADERS 7 end", "HEADERS 9 x=two end", "HEADERS 11 end")
	w.finish()
}

// Uploads that fill every write to a backend leave room in the next one for a call of another caller.
func TestACallAmongUploads(t *testing.T) {
	w, many, one, b := crowd(t, setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	b.grow(0, 1<<30)
	b.pause()
	const uploads = 40
	upload := func() {
		for id, st := range many.streams {
			if n := min(st.credit, many.credit, maxFrameSize); n > 0 {
				many.data(id, make([]byte, n), false)
			}
		}
	}
	for range uploads {
		many.request(false)
	}
	for range 10 {
		upload()
	}
	if got := b.c.State().Unwritten; got < highWater {
		t.Fatalf("%d bytes stand to be written, too few for this test", got)
	}
	id := one.request(false)
	one.data(id, make([]byte, 100), true)
	for range 3 { // what is being written, what stood to be, and the next
		b.readOnce()
		upload()
	}
	if st := b.streams[2*uploads+1]; st == nil || !st.over || len(st.received) != 100 {
		t.Errorf("the call has not come: %+v, and %d wait for a stream", st, w.pools["a:1"].queue.Len())
	}
	b.resume()
	w.finish()
}

func TestLeavingALine(t *testing.T) {
	w, c, b := pair(t, setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
	others := []*peer{w.caller(), w.caller()}
	for _, p := range others {
		p.settings()
	}
	x := []string{"a", "b", "c", "d", "e", "f", "g"}
	for _, x := range x {
		c.request(true, "x", x)
	}
	others[0].request(true, "x", "other")
	others[1].request(true, "x", "another")
	for _, id := range []uint32{3, 7, 13} { // the first, one in the middle, the last
		c.reset(id, http2.ErrCodeCancel)
	}
	others[0].reset(1, http2.ErrCodeCancel) // the only one
	var got []string
	for id := uint32(1); id < 11; id += 2 {
		b.only(id, "0")
	}
	got = b.got()
	if want := []string{
		"HEADERS 1 x=a end", "HEADERS 3 x=c end", "HEADERS 5 x=another end", "HEADERS 7 x=e end", "HEADERS 9 x=f end",
	}; !slices.Equal(got, want) {
		t.Errorf("the backend got %q, want %q", got, want)
	}
	if n := w.pools["a:1"].queue.Len(); n != 0 {
		t.Errorf("%d calls wait", n)
	}
	w.finish()
}
