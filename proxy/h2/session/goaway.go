package session

import (
	"fmt"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

// goAway says that no more streams are taken than up to last.
func (c *Conn) goAway(last uint32) {
	c.out = h2.AppendGoAway(c.writable(), last, h2.NoError, "")
	c.mark()
}

// drainPing is what a PING carries whose answer shows that the peer has seen our first GOAWAY.
var drainPing = [8]byte{'d', 'r', 'a', 'i', 'n'}

// Drain lets a client go in two steps, so that no stream is refused that was on its way (RFC 9113, section 6.8). The
// second is taken when the client has answered a PING, by FinishDrain, or at once if there is nobody yet to answer.
func (c *Conn) Drain() {
	c.leaving = true
	c.introduce()
	c.goAway(h2.MaxStreamID)
	c.out = h2.AppendPing(c.writable(), false, drainPing)
	if c.preface > 0 || !c.greeted {
		c.FinishDrain()
	}
}

// FinishDrain refuses further streams, and ends the connection with its last.
func (c *Conn) FinishDrain() {
	if c.leaving && !c.finished {
		c.finished = true
		c.goAway(c.lastID)
		c.closeIfFinished()
	}
}

// Finish opens no more streams, and ends the connection with its last.
func (c *Conn) Finish() {
	c.leaving, c.finished = true, true
	c.closeIfFinished()
}

func (c *Conn) onPingAck(data [8]byte) {
	switch data {
	case bdpPing:
		c.bdp.onPingAck(c.group.now)
	case keepalivePing:
		c.keepsAlive()
	case drainPing:
		c.FinishDrain()
	}
}

// maxGoAwayText is how much is kept of what a server says with GOAWAY.
const maxGoAwayText = 128

// GoAwayError is a server's GOAWAY.
type GoAwayError struct {
	Code h2.ErrCode
	Text string // what it says about it, in no particular form
}

func (e *GoAwayError) Error() string {
	if e.Text == "" {
		return "GOAWAY " + e.Code.String()
	}
	return fmt.Sprintf("GOAWAY %s %q", e.Code, e.Text)
}

func (c *Conn) onGoAway(payload []byte) error {
	last, code, text := h2.ParseGoAway(payload)
	if c.role == Server {
		return c.glitch("GOAWAY") // it is about us opening streams; its own go on
	}
	c.leaving = true
	c.handler.OnGoAway(&GoAwayError{code, string(text[:min(len(text), maxGoAwayText)])})
	for id, s := range c.streams {
		if id > last {
			c.expectCrossing(id, s.window()) // some reset them one by one as well
			c.forget(s)
			s.handler.OnReset(Reset{Code: h2.RefusedStream})
		}
	}
	c.Finish()
	return c.glitch("GOAWAY")
}
