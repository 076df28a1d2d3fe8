package relay

import "github.com/lbproxy/lbproxy/proxy/h2"

// onData passes DATA on. Its length counts against the windows whatever becomes of it.
func (c *conn) onData(h h2.FrameHeader, payload []byte) error {
	if !c.recv.Receive(len(payload)) {
		return h2.ConnectionError{Code: h2.FlowControlError, Reason: "more DATA than the connection's window allows"}
	}
	// The connection's window is given back at once: one stalled call must not hold up the others. What a
	// connection can make us hold is bounded by its streams' windows.
	if c.recv.Release(len(payload)) {
		c.out = h2.AppendWindowUpdate(c.writable(), 0, c.recv.Update(connWindow))
		c.mark()
	}
	c.measure(len(payload))
	data, err := h2.ParseData(h, payload)
	if err != nil {
		return err
	}
	x := c.streams[h.StreamID]
	if x == nil {
		return c.notOpen(h)
	}
	in, end := &x.streams[c.side], h.Flags.Has(h2.FlagEndStream)
	if in.gotEnd {
		return h2.StreamError{StreamID: h.StreamID, Code: h2.StreamClosed, Reason: "DATA after END_STREAM"}
	}
	if c.side == backend && !x.answered {
		return h2.StreamError{StreamID: h.StreamID, Code: h2.ProtocolError, Reason: "DATA before the response's fields"}
	}
	if !in.recv.Receive(len(payload)) {
		return h2.StreamError{StreamID: h.StreamID, Code: h2.FlowControlError, Reason: "more DATA than the stream's window allows"}
	}
	if in.expected >= 0 {
		if in.expected -= int64(len(data)); in.expected < 0 || end && in.expected > 0 {
			return h2.StreamError{StreamID: h.StreamID, Code: h2.ProtocolError, Reason: "content is not as long as content-length says"}
		}
	}
	if len(data) == 0 && !end {
		x.credit(c.side, len(payload))
		return c.glitch("empty DATA")
	}
	c.useful()
	in.gotEnd = end
	if c.side == backend && x.speaks.isWeb() {
		x.web.read(x.speaks, data, &x.code)
	}
	if c.side == backend && end {
		x.responseEnded()
	}
	x.credit(c.side, len(payload)-len(data))
	x.relay(c.side, c.framed(h, data), end)
	return nil
}

// framed is the data of a DATA frame that is being read behind room for a frame's header, which is where its own stands.
func (c *conn) framed(h h2.FrameHeader, data []byte) []byte {
	at := c.r
	if h.Flags.Has(h2.FlagPadded) {
		at++ // the padding's length is room as well
	}
	return c.in[at : at+h2.FrameHeaderLen+len(data)]
}
