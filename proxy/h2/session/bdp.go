package session

import (
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

const (
	// quickWindow is what the window of any stream may grow to whose reader keeps up: on the host that is all that a
	// reader can use, however far a busy machine makes the round trip seem.
	quickWindow = 2 << 20
	// A reader may be quick and not keep up, as the peer is quicker still. It gets half of its window within quickTurn,
	// so that a stream costs no more than a hundred updates a second. One that lags and takes more than slowTurn gets
	// less: more would only be held longer.
	quickTurn = 10 * time.Millisecond
	slowTurn  = 2 * quickTurn

	// maxStreamWindow is what it may grow to where the round trip is that long.
	maxStreamWindow = 16 << 20
	// updateLump is what is worth an update of a wide window: with larger ones the peer would send in bursts.
	updateLump = quickWindow / 4

	// bdpRest and maxBDPRest are how long measuring rests at first, and in the end, after it has found nothing new.
	bdpRest    = 10 * time.Millisecond
	maxBDPRest = 10 * time.Second

	// maxUnneeded is how many calls may end that have not needed what new streams begin with, until that is halved.
	maxUnneeded = 32
)

// bdp learns the bandwidth-delay product of a connection: what a stream must be allowed to send for it never to wait
// for our updates. It measures by PINGs, as gRPC does, but only once some stream has got to quickWindow, so that
// connections without such pay nothing.
type bdp struct {
	most     int32 // that windows may grow to
	learnt   int32 // what a stream's has grown to: new ones begin with it
	unneeded int32 // calls in a row that ended below half of it

	rtt     time.Duration // the shortest that was measured; 0 before the first
	asked   int64         // when the PING, or our SETTINGS, went out whose answer is to come, in Unix nanoseconds; 0 if there is none
	arrived int           // bytes of DATA since then
	rest    time.Duration // how long measuring rests next
	resume  int64         // when it may go on
}

// bdpPing is what our PINGs carry for it.
var bdpPing = [8]byte{'b', 'd', 'p'}

func newBDP() bdp { return bdp{most: quickWindow, learnt: streamWindow} }

// measure counts DATA that has come, and begins to measure if it is time.
func (c *Conn) measure(n int) {
	b := &c.bdp
	if b.asked == 0 && b.learnt >= quickWindow {
		if now := c.group.now; now >= b.resume {
			b.asked, b.arrived = now, 0
			c.out = h2.AppendPing(c.writable(), false, bdpPing)
			c.mark()
		}
	}
	b.arrived += n
}

// onSettingsAck is called when our SETTINGS have been acknowledged.
func (b *bdp) onSettingsAck(now int64) {
	if b.rtt == 0 && b.asked != 0 {
		b.rtt, b.asked = b.took(now), 0
	}
}

// onPingAck is called when the PING has been answered. Bytes that came while it was queued behind others do not count: what
// can be on its way is the bandwidth times the shortest round trip.
func (b *bdp) onPingAck(now int64) {
	if b.asked == 0 || b.rtt == 0 {
		return
	}
	took := b.took(now)
	b.asked, b.rtt = 0, min(b.rtt, took)
	if need := 2 * int64(float64(b.arrived)*float64(b.rtt)/float64(took)); need > int64(b.most) {
		b.most = int32(min(need, maxStreamWindow))
		b.rest = 0
		return
	}
	b.rest = min(max(bdpRest, 2*b.rest), maxBDPRest)
	b.resume = now + int64(b.rest)
}

// took is how long the answer has taken that comes now.
func (b *bdp) took(now int64) time.Duration { return time.Duration(max(1, now-b.asked)) }

// next is what the window of a stream is to become that is due for an update.
func (b *bdp) next(s *Stream, now int64) int32 {
	size := s.recv.Size()
	turned, keptUp := s.recv.Turn()
	if !turned {
		return size
	}
	took := time.Duration(now - s.turnedAt)
	s.turnedAt = now
	switch {
	case keptUp:
		return max(size, min(b.most, max(2*size, b.learnt)))
	case took < quickTurn:
		return max(size, min(quickWindow, 2*size))
	case took > slowTurn && s.recv.Held() > size/4:
		return max(size/2, streamWindow)
	}
	return size
}

// resize updates the peer's window of a stream, as far towards a size as there is memory for.
func (c *Conn) resize(s *Stream, size int32) {
	before := s.recv.Grown()
	room := int32(min(c.group.budget.Room(), maxStreamWindow))
	update := s.recv.Update(min(size, s.recv.Size()+room))
	if more := s.recv.Grown() - before; more != 0 {
		c.group.budget.Grow(more)
	}
	c.bdp.learnt = max(c.bdp.learnt, s.recv.Size())
	if update > 0 {
		c.out = h2.AppendWindowUpdate(c.writable(), s.id, update)
		c.mark()
	}
}

// widen begins a stream that we have opened with the window that others have needed.
func (c *Conn) widen(s *Stream) {
	if c.bdp.learnt > streamWindow {
		c.resize(s, c.bdp.learnt)
	}
}

// judge sees a stream end that began with what was learnt.
func (b *bdp) judge(w *h2.ReceiveWindow) {
	switch {
	case b.learnt == streamWindow:
	case w.Used():
		b.unneeded = 0
	default:
		if b.unneeded++; b.unneeded > maxUnneeded {
			b.unneeded = 0
			b.learnt = max(b.learnt/2, streamWindow)
		}
	}
}
