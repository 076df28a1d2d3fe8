package relay

import "github.com/lbproxy/lbproxy/proxy/h2"

// unblock queues a stream that has something to send, and room for it in its own window.
func (c *conn) unblock(x *exchange) {
	st := &x.streams[c.side]
	if st.flow == nil && !st.done && (st.queue.len > 0 && st.send > 0 || st.queue.len == 0 && st.last != nothing) {
		c.blocked.add(x, x.owner)
	}
}

// pump sends what is queued, a frame of each in turn, as far as windows and the peer's reading go.
func (c *conn) pump() {
	for !c.dead && c.takesData() {
		x := c.blocked.peek()
		if x == nil {
			return
		}
		st := &x.streams[c.side]
		if st.queue.len > 0 && c.send <= 0 {
			return // the connection's window is what all of them wait for
		}
		c.blocked.pop()
		n := c.send.Take(min(len(st.queue.head()), int(c.peer.MaxFrameSize), max(0, int(st.send))))
		st.send.Take(n)
		c.sendQueued(x, st, n)
	}
}

// takesData says whether DATA may be added to what stands to be written.
func (c *conn) takesData() bool { return c.unwritten()-c.requests < highWater }

// sendQueued sends the next n bytes of a stream's queue, and what follows the queue if that is all.
func (c *conn) sendQueued(x *exchange, st *stream, n int) {
	drained := n == st.queue.len
	end := drained && st.last == endStream
	if n > 0 || end {
		c.useful()
		c.appendQueued(st, n, end)
		c.core.charge(x)
		c.mark()
	}
	before := min(n, st.credited)
	st.credited -= before
	x.credit(c.side.other(), n-before)
	switch {
	case drained && st.last == trailers:
		st.last = nothing
		x.headers(c.side.other(), st.trailers, true)
		return
	case !drained:
		c.unblock(x)
	}
	if end {
		st.done = true
		x.endIfDelivered()
	}
}

// appendQueued appends a frame of the next n bytes of a queue. A block that is worth it is written from where it stands.
func (c *conn) appendQueued(st *stream, n int, end bool) {
	q := &st.queue
	data := q.head()[:n]
	whole := n == len(q.head())
	if whole && n >= minPiece {
		c.out = h2.AppendDataHeader(c.writable(), st.id, n, end)
		c.addBlock(data, q.pop())
		return
	}
	c.out = h2.AppendData(c.writable(), st.id, data, end)
	if whole && n > 0 {
		c.core.storage.put(q.pop())
	} else {
		q.skip(n)
	}
}

// writeData sends DATA that nothing stands in front of, on its stream or in the queue, if it can be sent as it is. It stands
// in frame, behind room for a frame's header.
func (c *conn) writeData(x *exchange, frame []byte, end bool) bool {
	st, data := &x.streams[c.side], frame[h2.FrameHeaderLen:]
	if len(data) > int(st.send) || len(data) > int(c.send) || len(data) > int(c.peer.MaxFrameSize) || c.blocked.len > 0 || !c.takesData() {
		return false
	}
	st.send.Take(len(data))
	c.send.Take(len(data))
	c.useful()
	if len(data) < minPiece && !c.follows(frame) {
		c.out = h2.AppendData(c.writable(), st.id, data, end)
	} else {
		h2.AppendDataHeader(frame[:0], st.id, len(data), end)
		c.borrow(frame)
	}
	c.mark()
	return true
}
