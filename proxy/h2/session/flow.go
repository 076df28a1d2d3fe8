package session

import "github.com/lbproxy/lbproxy/proxy/h2"

// unblock queues a stream that has something to send, and room for it in its own window.
func (c *Conn) unblock(s *Stream) {
	if s.flow == nil && !s.done && (s.queue.len > 0 && s.send > 0 || s.queue.len == 0 && s.last != nothing) {
		c.blocked.Add(s)
	}
}

// pump sends what is queued, a frame of each stream in turn, as far as windows and the peer's reading go.
func (c *Conn) pump() {
	for !c.dead && c.takesData() {
		s := c.blocked.peek()
		if s == nil {
			return
		}
		if s.queue.len > 0 && c.send <= 0 {
			return // the connection's window is what all of them wait for
		}
		c.blocked.Pop()
		n := c.send.Take(min(len(s.queue.head()), int(c.peer.MaxFrameSize), max(0, int(s.send))))
		s.send.Take(n)
		c.sendQueued(s, n)
	}
}

// takesData says whether DATA may be added to what stands to be written.
func (c *Conn) takesData() bool { return c.unwritten()-c.requests < highWater }

// sendQueued sends the next n bytes of a stream's queue, and what follows the queue if that is all.
func (c *Conn) sendQueued(s *Stream, n int) {
	drained := n == s.queue.len
	end := drained && s.last == endStream
	if n > 0 || end {
		c.useful()
		c.appendQueued(s, n, end)
		c.mark()
	}
	if n > 0 {
		s.handler.OnSent(n)
	}
	switch {
	case drained && s.last == trailers:
		c.sendTrailers(s)
	case !drained:
		c.unblock(s)
	case end:
		s.done = true
		s.handler.OnEnd()
	}
}

// sendTrailers sends the trailers that were queued.
func (c *Conn) sendTrailers(s *Stream) {
	s.last = nothing
	if s.Headers(s.trailers, true) == FieldsTooLong {
		s.handler.OnTooLong(s.trailers)
		return
	}
	s.handler.OnEnd()
}

// appendQueued appends a frame of the next n bytes of a queue. A block that is worth it is written from where it stands.
func (c *Conn) appendQueued(s *Stream, n int, end bool) {
	q := &s.queue
	data := q.head()[:n]
	whole := n == len(q.head())
	if whole && n >= minPiece {
		c.out = h2.AppendDataHeader(c.writable(), s.id, n, end)
		c.addBlock(data, q.pop())
		return
	}
	c.out = h2.AppendData(c.writable(), s.id, data, end)
	if whole && n > 0 {
		c.group.storage.put(q.pop())
	} else {
		q.skip(n)
	}
}

// writeData sends DATA that nothing stands in front of, on its stream or in the queue, if it can be sent as it is. It
// stands in frame, behind room for a frame's header.
func (c *Conn) writeData(s *Stream, frame []byte, end bool) bool {
	data := frame[h2.FrameHeaderLen:]
	if len(data) > int(s.send) || len(data) > int(c.send) || len(data) > int(c.peer.MaxFrameSize) || c.blocked.len > 0 || !c.takesData() {
		return false
	}
	s.send.Take(len(data))
	c.send.Take(len(data))
	c.useful()
	if len(data) < minPiece && !c.follows(frame) {
		c.out = h2.AppendData(c.writable(), s.id, data, end)
	} else {
		h2.AppendDataHeader(frame[:0], s.id, len(data), end)
		c.borrow(frame)
	}
	c.mark()
	return true
}
