package session

import (
	"github.com/lbproxy/lbproxy/proxy/h2"
)

// The frames that carry nothing of a call but steer it or the connection.

func (c *Conn) onSettings(h h2.FrameHeader, payload []byte) error {
	if h.Flags.Has(h2.FlagAck) {
		c.bdp.onSettingsAck(c.group.now)
		return c.glitch("acknowledgements of SETTINGS")
	}
	before := c.peer.InitialWindowSize
	if err := c.peer.Apply(payload, c.role == Client); err != nil {
		return err
	}
	c.enc.SetMaxTableSize(c.peer.HeaderTableSize)
	if grown := c.peer.InitialWindowSize - before; grown != 0 {
		if err := c.growWindows(grown); err != nil {
			return err
		}
	}
	c.out = h2.AppendSettingsAck(c.writable())
	c.mark()
	c.pump()
	if !c.greeted {
		c.greeted = true
		c.handler.OnGreeted()
	}
	c.slot()
	return c.glitch("SETTINGS")
}

// growWindows changes the windows of all streams by n, which may be negative.
func (c *Conn) growWindows(n int32) error {
	for _, s := range c.streams {
		if !s.send.Grow(n) {
			return h2.ConnectionError{Code: h2.FlowControlError, Reason: "SETTINGS_INITIAL_WINDOW_SIZE makes a window exceed 2^31-1"}
		}
		c.unblock(s)
	}
	return c.addGlitches(len(c.streams)/100, "changes of SETTINGS_INITIAL_WINDOW_SIZE with many streams")
}

func (c *Conn) onWindowUpdate(h h2.FrameHeader, payload []byte) error {
	n, err := h2.ParseWindowUpdate(h, payload)
	if err != nil {
		return err
	}
	if h.StreamID == 0 {
		if !c.send.Grow(n) {
			return h2.ConnectionError{Code: h2.FlowControlError, Reason: "the connection's window exceeds 2^31-1"}
		}
		c.pump()
		return c.glitch("WINDOW_UPDATE")
	}
	s := c.streams[h.StreamID]
	if s == nil {
		return c.notOpen(h)
	}
	if !s.send.Grow(n) {
		return h2.StreamError{StreamID: h.StreamID, Code: h2.FlowControlError, Reason: "the window exceeds 2^31-1"}
	}
	c.unblock(s)
	c.pump()
	return c.glitch("WINDOW_UPDATE")
}

func (c *Conn) idle(id uint32) bool {
	if c.role == Server {
		return id%2 == 0 || id > c.lastID
	}
	return id%2 == 0 || id >= c.nextID
}

func (c *Conn) onPriority(h h2.FrameHeader, payload []byte) error {
	if err := h2.ParsePriority(h, payload); err != nil {
		return err
	}
	if x := c.crossing(h.StreamID); x != nil && x.take(h) {
		return nil
	}
	return c.glitch("PRIORITY")
}
