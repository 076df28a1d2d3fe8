package session

import (
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

// crossing is what may still come on a stream that we have closed before its peer had. Until the peer knew, it was
// right to send, within the window that it had been given, and what it sent is ignored: no second RST_STREAM answers
// it (RFC 9113, sections 5.1 and 5.4.2). What exceeds that is counted like any other frame that helps nobody.
type crossing struct {
	id     uint32
	until  uint32 // in seconds; by then the peer must have known
	window int32  // bytes of DATA; negative after END_STREAM
	frames int32  // that take nothing of the window
}

const (
	crossingTime = 30 * time.Second
	// crossingFrames is more than HEADERS, RST_STREAM, and WINDOW_UPDATEs for what a quick link holds.
	crossingFrames = 100
	// noMore is the window of a peer that has sent END_STREAM.
	noMore = -1
)

// take tells whether a frame is one of those that may come.
func (x *crossing) take(h h2.FrameHeader) bool {
	content := h.Type == h2.FrameData || h.Type == h2.FrameHeaders
	switch {
	case content && x.window < 0:
		return false
	case h.Type == h2.FrameData && h.Length > 0:
		if h.Length > uint32(x.window) {
			return false
		}
		x.window -= int32(h.Length)
	case x.frames == 0:
		return false
	default:
		x.frames--
	}
	switch {
	case content && h.Flags.Has(h2.FlagEndStream):
		x.window = noMore
	case h.Type == h2.FrameRSTStream:
		x.window, x.frames = noMore, 0
	}
	return true
}

// crossings are those of a connection. A stream stands within reach of where its identifier points, and replaces the
// oldest that it finds there if the table may not grow.
type crossings struct {
	table []crossing // their number is a power of two
	last  int64      // when the last of them ends, in Unix nanoseconds
	due   int64      // when to look whether it has
}

const (
	minCrossings   = 8
	maxCrossings   = 16 << 10
	crossingsReach = 8
)

func (cs *crossings) at(id uint32, i int) *crossing {
	return &cs.table[(int(id/2)+i)&(len(cs.table)-1)]
}

// place is where a stream may stand: what is free first.
func (cs *crossings) place(id uint32) *crossing {
	oldest := cs.at(id, 0)
	for i := 1; i < crossingsReach; i++ {
		if x := cs.at(id, i); x.until < oldest.until {
			oldest = x
		}
	}
	return oldest
}

// crossing is what may still come on a stream; nil if it is not one that we have closed early, and lately.
func (c *Conn) crossing(id uint32) *crossing {
	if c.crossings == nil {
		return nil
	}
	for i := range crossingsReach {
		if x := c.crossings.at(id, i); x.id == id && x.until >= seconds(c.group.now) {
			return x
		}
	}
	return nil
}

// expectCrossing is called when a stream is reset whose peer may send window bytes more.
func (c *Conn) expectCrossing(id uint32, window int32) {
	g := c.group
	if c.crossings == nil {
		if !g.budget.Remember(minCrossings * crossingSize) {
			return
		}
		c.crossings = &crossings{table: make([]crossing, minCrossings)}
	}
	cs := c.crossings
	x := cs.place(id)
	for x.until >= seconds(g.now) && len(cs.table) < maxCrossings && g.budget.Remember(len(cs.table)*crossingSize) {
		cs.grow()
		x = cs.place(id)
	}
	cs.last = g.now + int64(crossingTime)
	*x = crossing{id: id, until: seconds(cs.last), window: window, frames: crossingFrames}
	if cs.due == 0 {
		cs.due = cs.last
		c.arm(cs.due)
	}
}

func (cs *crossings) grow() {
	old := cs.table
	cs.table = make([]crossing, 2*len(old))
	for _, x := range old {
		if x.id != 0 {
			*cs.place(x.id) = x
		}
	}
}

// expireCrossings gives back the memory for streams on which nothing comes any more.
func (c *Conn) expireCrossings() {
	cs := c.crossings
	switch {
	case cs == nil:
		return
	case cs.last <= c.group.now:
		c.forgetCrossings()
		return
	case cs.due <= c.group.now:
		cs.due = cs.last
	}
	c.arm(cs.due)
}

func (c *Conn) forgetCrossings() {
	if c.crossings != nil {
		c.group.budget.Remember(-len(c.crossings.table) * crossingSize)
		c.crossings = nil
	}
}

func seconds(nanos int64) uint32 { return uint32(nanos / int64(time.Second)) }

// crossingSize is how many bytes a crossing takes.
const crossingSize = 16

// lateFrames is how many frames of a stream may cross with the END_STREAM by which we close it: a WINDOW_UPDATE and a
// RST_STREAM. No more than maxLate are expected at a time.
const (
	lateFrames = 2
	maxLate    = lateFrames * maxCrossings
)

// expectLate notes that both sides have ended a stream. Its peer may not know when it gives a window or cancels, and
// that is ignored (RFC 9113, section 5.1); which stream it was for need not be remembered.
func (c *Conn) expectLate() { c.glitches.late = min(c.glitches.late+lateFrames, maxLate) }

// takeLate tells whether a frame is one of those that cross with END_STREAM.
func (c *Conn) takeLate(h h2.FrameHeader) bool {
	if c.glitches.late == 0 || h.Type != h2.FrameWindowUpdate && h.Type != h2.FrameRSTStream {
		return false
	}
	c.glitches.late--
	return true
}

// notOpen judges a frame on a stream that is not open.
func (c *Conn) notOpen(h h2.FrameHeader) error {
	if c.idle(h.StreamID) {
		return h2.ConnectionError{Code: h2.ProtocolError, Reason: h.Type.String() + " on a stream that was never opened"}
	}
	x := c.crossing(h.StreamID)
	if x != nil && x.take(h) || x == nil && c.takeLate(h) {
		return nil
	}
	if err := c.glitch("frames on closed streams"); err != nil || x != nil || c.role == Client {
		return err
	}
	switch h.Type {
	case h2.FrameData:
		return h2.StreamError{StreamID: h.StreamID, Code: h2.StreamClosed, Reason: "DATA on a closed stream"}
	case h2.FrameHeaders:
		return h2.ConnectionError{Code: h2.StreamClosed, Reason: "HEADERS on a closed stream"}
	}
	return nil
}
