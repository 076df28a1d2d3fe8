package session

import (
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

func TestCrossingSize(t *testing.T) {
	if got := int(unsafe.Sizeof(crossing{})); got != crossingSize {
		t.Errorf("a crossing takes %d bytes, want %d", got, crossingSize)
	}
}

// A connection may forget what may still come on a stream, and never makes it up.
func TestCrossingsAgainstAModel(t *testing.T) {
	c, now := newEnd(Server), time.Unix(1e9, 0)
	random := rand.New(rand.NewPCG(1, 2))
	type grant struct {
		window int32
		until  time.Time
	}
	granted := map[uint32]grant{}
	var ids []uint32
	for next := uint32(1); next < 100_000; next += 2 {
		if random.IntN(3) == 0 {
			window := random.Int32N(100)
			c.expectCrossing(next, window)
			granted[next] = grant{window, now.Add(crossingTime)}
			ids = append(ids, next)
		}
		if len(ids) == 0 {
			continue
		}
		id := ids[max(0, len(ids)-1-random.IntN(2*maxCrossings))]
		g := granted[id]
		h := h2.FrameHeader{Type: h2.FrameData, StreamID: id, Length: 1 + random.Uint32N(50)}
		x := c.crossing(id)
		alive := now.Before(g.until)
		if x == nil && alive && len(granted) < crossingsReach {
			t.Fatalf("stream %d is forgotten", id)
		}
		if x != nil && x.take(h) {
			if g.window -= int32(h.Length); g.window < 0 || now.After(g.until.Add(time.Second)) {
				t.Fatalf("stream %d: a frame is taken, %d bytes beyond the window, %s late", id, -g.window, now.Sub(g.until))
			}
			granted[id] = g
		}
		if random.IntN(100) == 0 {
			now = now.Add(time.Duration(random.Int64N(int64(time.Second))))
			c.group.SetNow(now)
			c.Expire()
		}
	}
}
