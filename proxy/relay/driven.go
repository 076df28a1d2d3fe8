package relay

import "github.com/lbproxy/lbproxy/proxy/relay/netpoll"

// How drivers call in, see [netpoll.Conn]. A defect costs the connection that is driven.

// batchable is how much may be read at once for what comes of it to be written later, with more.
const batchable = 8 << 10

// Feed implements [netpoll.Conn].
func (c *conn) Feed(n int) (more bool) {
	c.core.step(c, func() { more = c.Conn.Feed(n) })
	if n > batchable || c.core.sessions.Borrowing() {
		c.core.flush()
	}
	return more
}

// Lost implements [netpoll.Conn].
func (c *conn) Lost(err error) { c.core.step(c, func() { c.Close(err) }) }

// Output implements [netpoll.Conn].
func (c *conn) Output() netpoll.Output {
	if out := c.Conn.Output(); out != nil {
		return out
	}
	return nil
}

// OutputDone implements [netpoll.Conn].
func (c *conn) OutputDone(err error) { c.core.step(c, func() { c.Conn.OutputDone(err) }) }
