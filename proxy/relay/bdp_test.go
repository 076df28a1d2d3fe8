package relay

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/picker"
)

// distant is a backend whose answers take a round trip, and a caller that reads all at once.
type distant struct {
	w    *world
	c, b *peer
	rtt  time.Duration
}

func newDistant(t *testing.T, rtt time.Duration) *distant {
	w := newWorld(t, "a:1")
	b := w.dialled("a:1")
	w.pass(rtt)
	b.settings(setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	b.fr.WriteSettingsAck()
	b.send()
	b.grow(0, 1<<30)
	w.endpoints["a:1"].SetState(picker.Ready, nil)
	w.step()
	c := w.caller()
	c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	c.grow(0, 1<<30)
	d := &distant{w: w, c: c, b: b, rtt: rtt}
	d.got()
	c.mute = true
	return d
}

func (d *distant) got() []string {
	d.c.got()
	return d.b.got()
}

// round has the backend send as much as it may, up to most bytes, which takes a round trip. It returns how much.
func (d *distant) round(id uint32, most int64) (sent int64) {
	st := d.b.streams[id]
	most = min(most, st.credit) // what is given meanwhile arrives a round trip later
	for sent < most {
		n := min(most-sent, maxFrameSize)
		d.b.fr.WriteData(id, false, zeros[:n])
		st.credit -= n
		d.b.credit -= n
		sent += n
		if d.b.out.Len() > maxWork {
			d.b.send()
		}
	}
	d.b.send()
	asked := slices.Contains(d.b.got(), "PING ack=false")
	d.w.pass(d.rtt)
	if asked {
		d.b.fr.WritePing(true, bdpPing)
		d.b.send()
	}
	return sent
}

var zeros [maxFrameSize]byte

func TestWindowsFollowTheRoundTrip(t *testing.T) {
	for _, tt := range []struct {
		name string
		rtt  time.Duration
		most int64 // that arrives in a round trip
		want int32
	}{
		{"on the host", 100 * time.Microsecond, 256 << 10, quickWindow},
		{"far away", 40 * time.Millisecond, 1 << 30, maxStreamWindow},
		{"far away on a narrow link", 40 * time.Millisecond, 1200 << 10, 2400 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDistant(t, tt.rtt)
			d.c.request(true)
			d.b.respond(1)
			for range 40 {
				d.round(1, tt.most)
			}
			if got := windowOf(d.b.c, 1); got < tt.want*9/10 || got > tt.want {
				t.Errorf("the window has %d bytes, want %d", got, tt.want)
			}
			d.w.finish()
		})
	}
}

// What a busy machine adds to the round trip is no distance.
func TestWindowsDoNotFollowQueues(t *testing.T) {
	d := newDistant(t, 100*time.Microsecond)
	d.c.request(true)
	d.b.respond(1)
	d.rtt = 50 * time.Millisecond
	for range 20 {
		d.round(1, 1<<30)
	}
	if got := windowOf(d.b.c, 1); got > quickWindow {
		t.Errorf("the window has %d bytes, want at most %d", got, quickWindow)
	}
	d.w.finish()
}

// Measuring costs a PING for each round trip only as long as it finds something.
func TestMeasuringRests(t *testing.T) {
	d := newDistant(t, time.Millisecond)
	d.c.request(true)
	d.b.respond(1)
	for range 100 {
		d.round(1, 300<<10)
	}
	pings := 0
	for range 1000 {
		d.b.data(1, make([]byte, 100), false)
		if slices.Contains(d.b.got(), "PING ack=false") {
			pings++
			d.b.fr.WritePing(true, bdpPing)
			d.b.send()
		}
		d.w.pass(10 * time.Millisecond)
	}
	if pings < 1 || pings > 10 {
		t.Errorf("%d PINGs within 10 s of a stream that does not change", pings)
	}
	d.w.finish()
}

func TestNewStreamsBeginWithWhatWasLearnt(t *testing.T) {
	d := newDistant(t, 40*time.Millisecond)
	call := func(n int64) (begun []string) {
		id := d.c.request(true)
		begun = d.got()
		d.b.respond(id)
		for n > 0 {
			n -= d.round(id, n)
		}
		d.b.trailers(id, "0")
		d.got()
		return begun
	}
	if got := call(100); !slices.Equal(got, []string{"HEADERS 1 end"}) {
		t.Errorf("the first call begins with %q", got)
	}
	id := d.c.request(true)
	d.b.respond(id)
	for range 12 {
		d.round(id, 1<<30)
	}
	learnt := d.b.c.State().Learnt
	if learnt <= quickWindow {
		t.Fatalf("a window of %d bytes has been learnt", learnt)
	}
	d.b.trailers(id, "0")
	d.got()
	want := []string{"HEADERS 5 end", fmt.Sprintf("UPDATE 5 %d", learnt-streamWindow)}
	if got := call(100); !slices.Equal(got, want) {
		t.Errorf("a call after a large one begins with %q, want %q", got, want)
	}
	for range 9 * maxUnneeded { // halving it 8 times makes 16 MiB 64 KiB
		call(100)
	}
	if got := call(100); len(got) != 1 {
		t.Errorf("a call after many small ones begins with %q", got)
	}
	d.w.finish()
}

func TestStreamsBeginWithNoMoreThanThereIsMemoryFor(t *testing.T) {
	d := newDistant(t, 40*time.Millisecond)
	d.b.c.Learn(maxStreamWindow)
	d.w.core.memory.limit = spareable * maxStreamWindow
	for range 5 {
		d.c.request(true)
	}
	sum := 0
	for s := range d.b.c.Streams() {
		w := s.Window()
		sum += w.Grown()
	}
	if sum != maxStreamWindow || sum != d.w.core.memory.grown {
		t.Errorf("windows are wider by %d bytes in all, and %d are counted, want %d", sum, d.w.core.memory.grown, maxStreamWindow)
	}
	d.w.finish()
}
