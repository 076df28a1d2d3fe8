package relay

import "github.com/lbproxy/lbproxy/proxy/h2"

// unblock puts a stream in line if it has something that its own window lets be sent.
func (c *conn) unblock(st *stream) {
	h := &st.half[c.side]
	if h.turn == nil && !h.done && (h.queue.len > 0 && h.send > 0 || h.queue.len == 0 && h.last != nothing) {
		c.blocked.add(st, st.owner)
	}
}

// pump sends what stands in line, a frame of each in turn, as far as windows and the peer's reading go.
func (c *conn) pump() {
	for !c.dead && c.takesData() {
		st := c.blocked.peek()
		if st == nil {
			return
		}
		h := &st.half[c.side]
		if h.queue.len > 0 && c.send <= 0 {
			return // the connection's window is what all of them wait for
		}
		c.blocked.pop()
		n := c.send.Take(min(len(h.queue.head()), int(c.peer.MaxFrameSize), max(0, int(h.send))))
		h.send.Take(n)
		c.sendQueued(st, h, n)
	}
}

// takesData says whether DATA may be added to what stands to be written.
func (c *conn) takesData() bool { return c.unwritten()-c.requests < highWater }

// sendQueued sends the next n bytes of a stream's queue, and what follows the queue if that is all.
func (c *conn) sendQueued(st *stream, h *half, n int) {
	drained := n == h.queue.len
	end := drained && h.last == endStream
	if n > 0 || end {
		c.useful()
		c.appendQueued(h, n, end)
		c.core.charge(st)
		c.mark()
	}
	before := min(n, h.credited)
	h.credited -= before
	st.credit(c.side.other(), n-before)
	switch {
	case drained && h.last == trailers:
		h.last = nothing
		st.headers(c.side.other(), h.trailers, true)
		return
	case !drained:
		c.unblock(st)
	}
	if end {
		h.done = true
		st.settle()
	}
}

// appendQueued appends a frame of the next n bytes of a queue. A block that is worth it is written from where it stands.
func (c *conn) appendQueued(h *half, n int, end bool) {
	q := &h.queue
	data := q.head()[:n]
	whole := n == len(q.head())
	if whole && n >= minPiece {
		c.out = h2.AppendDataHeader(c.writable(), h.id, n, end)
		c.hand(data, q.pop())
		return
	}
	c.out = h2.AppendData(c.writable(), h.id, data, end)
	if whole && n > 0 {
		c.core.storage.put(q.pop())
	} else {
		q.skip(n)
	}
}

// writeData sends DATA that nothing stands in front of, on its stream or in line, if it can be sent as it is. It stands
// in frame, behind room for a frame's header.
func (c *conn) writeData(st *stream, frame []byte, end bool) bool {
	h, data := &st.half[c.side], frame[h2.FrameHeaderLen:]
	if len(data) > int(h.send) || len(data) > int(c.send) || len(data) > int(c.peer.MaxFrameSize) || c.blocked.len > 0 || !c.takesData() {
		return false
	}
	h.send.Take(len(data))
	c.send.Take(len(data))
	c.useful()
	if len(data) < minPiece && !c.follows(frame) {
		c.out = h2.AppendData(c.writable(), h.id, data, end)
	} else {
		h2.AppendDataHeader(frame[:0], h.id, len(data), end)
		c.borrow(frame)
	}
	c.mark()
	return true
}
