package relay

import "github.com/lbproxy/lbproxy/proxy/h2"

// unblock puts a stream in line if it has something that its own window lets be sent.
func (c *conn) unblock(st *stream) {
	h := &st.half[c.side]
	waiting := len(h.queue) - h.sent
	if h.turn == nil && !h.done && (waiting > 0 && h.send > 0 || waiting == 0 && h.last != nothing) {
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
		waiting := len(h.queue) - h.sent
		if waiting > 0 && c.send <= 0 {
			return // the connection's window is what all of them wait for
		}
		c.blocked.pop()
		n := c.send.Take(min(waiting, int(c.peer.MaxFrameSize), max(0, int(h.send))))
		h.send.Take(n)
		c.sendQueued(st, h, n)
	}
}

// takesData says whether DATA may be added to what stands to be written.
func (c *conn) takesData() bool { return len(c.out)-c.requests < highWater }

// sendQueued sends the first n bytes of a stream's queue, and what follows the queue if that is all.
func (c *conn) sendQueued(st *stream, h *half, n int) {
	data := h.queue[h.sent : h.sent+n]
	h.sent += n
	drained := h.sent == len(h.queue)
	end := drained && h.last == endStream
	if n > 0 || end {
		c.useful()
		c.out = h2.AppendData(c.writable(), h.id, data, end)
		c.mark()
	}
	if drained {
		c.core.drained(st, h)
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

// writeData sends DATA that nothing stands in front of, on its stream or in line, if it can be sent as it is.
func (c *conn) writeData(st *stream, data []byte, end bool) bool {
	h := &st.half[c.side]
	if len(data) > int(h.send) || len(data) > int(c.send) || len(data) > int(c.peer.MaxFrameSize) || c.blocked.len > 0 || !c.takesData() {
		return false
	}
	h.send.Take(len(data))
	c.send.Take(len(data))
	c.useful()
	c.out = h2.AppendData(c.writable(), h.id, data, end)
	c.mark()
	return true
}
