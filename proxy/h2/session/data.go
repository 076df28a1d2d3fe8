package session

import "github.com/lbproxy/lbproxy/proxy/h2"

// onData passes DATA on. Its length counts against the windows whatever becomes of it.
func (c *Conn) onData(h h2.FrameHeader, payload []byte) error {
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
	s := c.streams[h.StreamID]
	if s == nil {
		return c.notOpen(h)
	}
	end := h.Flags.Has(h2.FlagEndStream)
	if s.gotEnd {
		return h2.StreamError{StreamID: h.StreamID, Code: h2.StreamClosed, Reason: "DATA after END_STREAM"}
	}
	if c.role == Client && !s.answered {
		return h2.StreamError{StreamID: h.StreamID, Code: h2.ProtocolError, Reason: "DATA before the response's fields"}
	}
	if !s.recv.Receive(len(payload)) {
		return h2.StreamError{StreamID: h.StreamID, Code: h2.FlowControlError, Reason: "more DATA than the stream's window allows"}
	}
	if s.expected >= 0 {
		if s.expected -= int64(len(data)); s.expected < 0 || end && s.expected > 0 {
			return h2.StreamError{StreamID: h.StreamID, Code: h2.ProtocolError, Reason: "content is not as long as content-length says"}
		}
	}
	if len(data) == 0 && !end {
		s.Credit(len(payload))
		return c.glitch("empty DATA")
	}
	c.useful()
	s.gotEnd = end
	s.Credit(len(payload) - len(data))
	s.handler.OnData(c.framed(h, data), end)
	return nil
}

// framed is the data of a DATA frame that is being read behind room for a frame's header, which is where its own stands.
func (c *Conn) framed(h h2.FrameHeader, data []byte) []byte {
	at := c.r
	if h.Flags.Has(h2.FlagPadded) {
		at++ // the padding's length is room as well
	}
	return c.in[at : at+h2.FrameHeaderLen+len(data)]
}
