package relay

import "github.com/lbproxy/lbproxy/proxy/h2"

// blockedList is the streams of a connection that have DATA to be sent, in turn. Their halves link it.
type blockedList struct{ first, last *stream }

// unblock puts a stream in line if it has something that its own window lets be sent.
func (c *conn) unblock(st *stream) {
	h := &st.half[c.side]
	waiting := len(h.queue) - h.sent
	if h.listed || h.done || waiting > 0 && h.send <= 0 || waiting == 0 && h.last == nothing {
		return
	}
	h.listed, h.before, h.after = true, c.blocked.last, nil
	if c.blocked.last != nil {
		c.blocked.last.half[c.side].after = st
	} else {
		c.blocked.first = st
	}
	c.blocked.last = st
}

// unlist takes a stream out of the line.
func (c *conn) unlist(st *stream) {
	h := &st.half[c.side]
	if !h.listed {
		return
	}
	if h.before != nil {
		h.before.half[c.side].after = h.after
	} else {
		c.blocked.first = h.after
	}
	if h.after != nil {
		h.after.half[c.side].before = h.before
	} else {
		c.blocked.last = h.before
	}
	h.listed, h.before, h.after = false, nil, nil
}

// pump sends what stands in line, a frame of each stream in turn, as far as windows and the peer's reading go.
func (c *conn) pump() {
	for !c.dead && c.blocked.first != nil && len(c.out) < highWater {
		st := c.blocked.first
		h := &st.half[c.side]
		waiting := h.queue[h.sent:]
		if len(waiting) > 0 && c.send <= 0 {
			return // the connection's window is what all of them wait for
		}
		c.unlist(st)
		n := c.send.Take(min(len(waiting), int(c.peer.MaxFrameSize), max(0, int(h.send))))
		h.send.Take(n)
		c.sendQueued(st, h, n)
	}
}

// sendQueued sends the first n bytes of a stream's queue, and what follows the queue if that is all.
func (c *conn) sendQueued(st *stream, h *half, n int) {
	data := h.queue[h.sent : h.sent+n]
	h.sent += n
	drained := h.sent == len(h.queue)
	end := drained && h.last == endStream
	if n > 0 || end {
		c.glitches = 0
		c.out = h2.AppendData(c.out, h.id, data, end)
		c.mark()
	}
	if drained {
		h.queue, h.sent = kept(h.queue), 0
	}
	before := min(n, h.credited)
	h.credited -= before
	st.credit(c.side.other(), n-before)
	switch {
	case drained && h.last == trailers:
		c.writeHeaders(h.id, h.trailers, true)
		end = true
	case !drained:
		c.unblock(st)
	}
	if end {
		h.done = true
		st.settle()
	}
}

// writeData sends DATA that nothing stands in front of, if it can be sent as it is.
func (c *conn) writeData(st *stream, data []byte, end bool) bool {
	h := &st.half[c.side]
	if len(data) > int(h.send) || len(data) > int(c.send) || len(data) > int(c.peer.MaxFrameSize) || len(c.out) >= highWater {
		return false
	}
	h.send.Take(len(data))
	c.send.Take(len(data))
	c.glitches = 0
	c.out = h2.AppendData(c.out, h.id, data, end)
	c.mark()
	return true
}
