package relay

import (
	"fmt"
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

// The frames that carry nothing of a call but steer it or the connection.

func (c *conn) onSettings(h h2.FrameHeader, payload []byte) error {
	if h.Flags.Has(h2.FlagAck) {
		c.bdp.settled(c.core.now)
		return c.glitch("acknowledgements of SETTINGS")
	}
	before := c.peer.InitialWindowSize
	if err := c.peer.Apply(payload, c.side == backend); err != nil {
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
		if c.upstream != nil {
			c.upstream.greeted(c)
		} else {
			c.startAging()
		}
	} else if c.upstream != nil {
		c.upstream.admit(c.core)
	}
	return c.glitch("SETTINGS")
}

// growWindows changes the windows of all streams by n, which may be negative.
func (c *conn) growWindows(n int32) error {
	for _, st := range c.streams {
		if !st.half[c.side].send.Grow(n) {
			return h2.ConnectionError{Code: h2.FlowControlError, Reason: "SETTINGS_INITIAL_WINDOW_SIZE makes a window exceed 2^31-1"}
		}
		c.unblock(st)
	}
	return c.glitches(len(c.streams)/100, "changes of SETTINGS_INITIAL_WINDOW_SIZE with many streams")
}

func (c *conn) onWindowUpdate(h h2.FrameHeader, payload []byte) error {
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
	st := c.streams[h.StreamID]
	if st == nil {
		return c.notOpen(h)
	}
	if !st.half[c.side].send.Grow(n) {
		return h2.StreamError{StreamID: h.StreamID, Code: h2.FlowControlError, Reason: "the window exceeds 2^31-1"}
	}
	c.unblock(st)
	c.pump()
	return c.glitch("WINDOW_UPDATE")
}

func (c *conn) idle(id uint32) bool {
	if c.side == caller {
		return id%2 == 0 || id > c.lastID
	}
	return id%2 == 0 || id >= c.nextID
}

func (c *conn) onPriority(h h2.FrameHeader, payload []byte) error {
	if err := h2.ParsePriority(h, payload); err != nil {
		return err
	}
	if x := c.crossing(h.StreamID); x != nil && x.take(h) {
		return nil
	}
	return c.glitch("PRIORITY")
}

func (c *conn) onRSTStream(h h2.FrameHeader, payload []byte) error {
	st := c.streams[h.StreamID]
	if st == nil {
		return c.notOpen(h)
	}
	code := h2.ParseRSTStream(payload)
	c.forget(st)
	if c.side == caller {
		st.cancelled(c.core)
		return c.resetAgain()
	}
	st.refused(c.core, code)
	return nil
}

func (c *conn) onGoAway(payload []byte) error {
	last, code, text := h2.ParseGoAway(payload)
	if c.side == caller {
		return c.glitch("GOAWAY") // it is about us opening streams; its own go on
	}
	c.leaving = true
	c.link.goneAway = &goAwayError{code: code, text: string(text[:min(len(text), maxGoAwayText)])}
	if code == h2.EnhanceYourCalm {
		c.link.goneAway.pingInterval = c.pingLess(string(text))
	}
	c.upstream.over(c, c.link.goneAway)
	for id, st := range c.streams {
		if id > last {
			c.expectCrossing(id, st.half[backend].window()) // some reset them one by one as well
			c.forget(st)
			st.refused(c.core, h2.RefusedStream)
		}
	}
	c.upstream.retire(c, c.link.goneAway)
	return c.glitch("GOAWAY")
}

// maxGoAwayText is how much is kept of what a backend says with GOAWAY.
const maxGoAwayText = 128

// goAwayError is a backend's GOAWAY.
type goAwayError struct {
	code         h2.ErrCode
	text         string        // what it says about it, in no particular form
	pingInterval time.Duration // what comes of it; 0 for nothing
}

func (e *goAwayError) Error() string {
	text := "the backend has sent GOAWAY " + e.code.String()
	if e.text != "" {
		text += fmt.Sprintf(" %q", e.text)
	}
	if e.pingInterval > 0 {
		text += fmt.Sprintf("; it is asked by PINGs every %s from now on, raise keepalive.time for its service", e.pingInterval)
	}
	return text
}

// graceful says that the backend has nothing against us.
func (e *goAwayError) graceful() bool { return e.code == h2.NoError }
