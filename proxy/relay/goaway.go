package relay

import (
	"fmt"
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

// goAway says that no more streams are taken than up to last.
func (c *conn) goAway(last uint32) {
	c.out = h2.AppendGoAway(c.writable(), last, h2.NoError, "")
	c.mark()
}

// drainPing is what a PING carries whose answer shows that the peer has seen our first GOAWAY.
var drainPing = [8]byte{'d', 'r', 'a', 'i', 'n'}

// drainPatience is how long a caller may take to answer that PING.
const drainPatience = time.Second

// drain lets the caller go in two steps, so that no stream is refused that was on its way (RFC 9113, section 6.8).
func (c *conn) drain() {
	if c.leaving || c.dead {
		return
	}
	c.leaving = true
	c.introduce()
	c.goAway(h2.MaxStreamID)
	c.out = h2.AppendPing(c.writable(), false, drainPing)
	c.core.set(&c.life, c.core.now.Add(drainPatience))
	if c.preface > 0 || !c.greeted {
		c.onPingAck(drainPing) // there is nobody yet to answer
	}
}

// startAging limits the age of a caller's connection.
func (c *conn) startAging() {
	switch age := c.core.cfg.MaxConnectionAge; {
	case c.leaving: // it ends anyway
	case age > 0:
		c.core.set(&c.life, c.core.now.Add(spread(age)))
	default:
		c.core.timers.remove(&c.life)
	}
}

// expire is called when a caller's connection has reached its age, when it has not greeted in time, and when it has
// not answered the PING.
func (c *conn) expire(core *core) {
	core.current = c
	switch {
	case c.leaving:
		c.onPingAck(drainPing)
	case !c.greeted:
		c.end(errSilent)
	default:
		c.drain()
	}
}

func (c *conn) onGoAway(payload []byte) error {
	last, code, text := h2.ParseGoAway(payload)
	if c.side == caller {
		return c.glitch("GOAWAY") // it is about us opening streams; its own go on
	}
	c.leaving = true
	c.handshake.goneAway = &goAwayError{code: code, text: string(text[:min(len(text), maxGoAwayText)])}
	if code == h2.EnhanceYourCalm {
		c.handshake.goneAway.pingInterval = c.pingLess(string(text))
	}
	c.pool.onGone(c, c.handshake.goneAway)
	for id, x := range c.streams {
		if id > last {
			c.expectCrossing(id, x.streams[backend].window()) // some reset them one by one as well
			c.forget(x)
			x.refused(c.core, h2.RefusedStream)
		}
	}
	c.pool.retire(c, c.handshake.goneAway)
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
