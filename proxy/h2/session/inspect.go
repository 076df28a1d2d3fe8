package session

import (
	"errors"
	"fmt"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

// What tests look at, those of the session's owners too.

// State is figures of a connection.
type State struct {
	LastID, NextID uint32 // the last stream that the peer has opened, and the next that we open
	InARow         int    // useless frames since the last useful one
	Resets, Late   int    // see glitches
	Out            int    // bytes of frames that stand to be written,
	Unwritten      int    // with pieces,
	Requests       int    // of requests' field blocks
	Learnt         int32  // the window that streams begin with
	Unparsed       int    // bytes of part of a frame
	AcksWait       bool   // answers to PINGs
	Remembered     int    // how many closed streams there is room for
}

// State returns the connection's figures.
func (c *Conn) State() State {
	s := State{
		LastID: c.lastID, NextID: c.nextID, InARow: c.glitches.inARow, Resets: c.glitches.resets, Late: c.glitches.late,
		Out: len(c.out), Unwritten: c.unwritten(), Requests: c.requests, Learnt: c.bdp.learnt, Unparsed: c.w - c.r,
		AcksWait: c.acks != nil && len(c.acks.frames) > 0,
	}
	if c.crossings != nil {
		s.Remembered = len(c.crossings.table)
	}
	return s
}

// Remembers says whether frames may still come on a stream that has been closed.
func (c *Conn) Remembers(id uint32) bool { return c.crossing(id) != nil }

// Stream is an open stream; nil if there is none of that identifier.
func (c *Conn) Stream(id uint32) *Stream { return c.streams[id] }

// Window is how many bytes of DATA the peer may send.
func (s *Stream) Window() h2.ReceiveWindow { return s.recv }

// An Audit adds up what connections and queues hold.
type Audit struct {
	Grown      int // bytes by which windows are wider than at first
	Remembered int // bytes for closed streams
	Held       int // bytes of memory
	blocks     map[*byte]bool
}

func (a *Audit) own(b *block) error {
	at := &b.data[:1][0]
	if a.blocks[at] {
		return errors.New("two hold the same block")
	}
	if a.blocks == nil {
		a.blocks = map[*byte]bool{}
	}
	a.blocks[at] = true
	return nil
}

// Check returns what is not sound about blocks that nobody holds.
func (g *Group) Check(a *Audit) error {
	for _, free := range g.storage.free {
		for b := free; b != nil; b = b.next {
			if err := a.own(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// Check returns what is not sound about a queue.
func (q *Queue) Check(a *Audit) error {
	n, size := -q.sent, 0
	for b := q.first; b != nil; b = b.next {
		if err := a.own(b); err != nil {
			return err
		}
		n += len(b.data)
		size += cap(b.data)
	}
	if n != q.len || size != q.cap || (q.last == nil) != (q.first == nil) {
		return fmt.Errorf("a queue of %d bytes in %d says it has %d in %d", n, size, q.len, q.cap)
	}
	if size > 2*(n+maxBlock) {
		return fmt.Errorf("a queue keeps %d bytes to hold %d", size, n)
	}
	return nil
}

// Check returns what is not sound about a queue whose streams are in place.
func (q *FairQueue) Check(belongs func(*Stream) bool) error {
	n := 0
	for f := q.first; f != nil; f = f.after {
		if f.first == nil || q.flows[f.source] != f {
			return errors.New("a source that has nothing in the queue gets a turn")
		}
		for s := f.first; s != nil; s = s.after {
			if n++; s.flow != f || s.source != f.source || !belongs(s) {
				return fmt.Errorf("a stream is queued that does not belong there: %+v", s)
			}
		}
	}
	if n != q.len || len(q.flows) > n {
		return fmt.Errorf("a queue of %d says it has %d, of %d sources", n, q.len, len(q.flows))
	}
	return nil
}

// Check returns what is not sound about a stream, open or not.
func (s *Stream) Check(a *Audit) error {
	if s.group == nil {
		if s.conn != nil || s.flow != nil || s.queue != (Queue{}) {
			return fmt.Errorf("a free stream is in use: %+v", s)
		}
		return nil
	}
	a.Grown += s.recv.Grown()
	switch {
	case s.send < -h2.MaxWindow:
		return fmt.Errorf("stream %d: window %d", s.id, s.send)
	case s.conn != nil && s.recv.Held() < 0:
		return fmt.Errorf("stream %d: more was given back than was received: %d", s.id, s.recv.Held())
	}
	return s.queue.Check(a)
}

// Check returns what is not sound about a connection, its streams' queues aside.
func (c *Conn) Check(a *Audit) error {
	if c.dead && (len(c.streams) > 0 || c.blocked.len > 0 || c.crossings != nil) {
		return errors.New("a dead connection has streams")
	}
	if c.crossings != nil {
		a.Remembered += len(c.crossings.table) * crossingSize
		if c.wake == 0 {
			return errors.New("streams that have ended are remembered for ever")
		}
	}
	for id, s := range c.streams {
		switch {
		case s.conn != c || s.id != id:
			return fmt.Errorf("stream %d does not know its connection", id)
		case s.flow == nil && !s.done && s.queue.len > 0 && s.send > 0:
			return fmt.Errorf("stream %d could send and is not queued", id)
		case s.flow == nil && !s.done && s.queue.len == 0 && s.last != nothing:
			return fmt.Errorf("stream %d could end and is not queued", id)
		case s.queue.len > 2*maxStreamWindow:
			return fmt.Errorf("stream %d holds %d bytes", id, s.queue.len)
		}
	}
	if c.recv.Held() != 0 {
		return fmt.Errorf("the connection's window is short of %d bytes", c.recv.Held())
	}
	if err := c.checkHeld(a); err != nil {
		return err
	}
	return c.blocked.Check(func(s *Stream) bool {
		return c.streams[s.id] == s && !s.done && (s.queue.len > 0 || s.last != nothing)
	})
}

func (c *Conn) checkHeld(a *Audit) error {
	blocks, pieced := 0, 0
	for i, p := range append(c.flight.pieces[:len(c.flight.pieces):len(c.flight.pieces)], c.pieces...) {
		if p.block == nil {
			return errors.New("something is still borrowed")
		}
		if err := a.own(p.block); err != nil {
			return err
		}
		blocks += cap(p.block.data)
		if i >= len(c.flight.pieces) {
			pieced += len(p.data)
		}
	}
	if blocks != c.blocks || pieced != c.pieced {
		return fmt.Errorf("pieces of %d bytes in blocks of %d are counted as %d in %d", pieced, blocks, c.pieced, c.blocks)
	}
	held := cap(c.out) + cap(c.flight.frames) + blocks + cap(c.block)
	if c.unparsed != nil {
		if err := a.own(c.unparsed); err != nil {
			return err
		}
		held += cap(c.unparsed.data)
	}
	if c.dead {
		held = 0
	}
	if c.charged != held {
		return fmt.Errorf("a connection is charged with %d bytes and holds %d", c.charged, held)
	}
	a.Held += held
	return nil
}

// SkipTo makes id the next stream that is opened, as if those before had been.
func (c *Conn) SkipTo(id uint32) { c.nextID = id }

// Learn makes streams begin with a window, as if others had needed it.
func (c *Conn) Learn(window int32) { c.bdp.learnt = window }
