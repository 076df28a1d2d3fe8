package session

import (
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

// keepalive finds out whether a silent server is still there, while streams are open.
type keepalive struct {
	time, timeout time.Duration
	due           int64 // when to look, in Unix nanoseconds; 0 for not at all
	asked         int64 // by a PING that nothing has followed; 0 if there is none
	pinged        bool  // at some time
}

// keepalivePing is what our PINGs carry. Whatever comes after one answers it.
var keepalivePing = [8]byte{'a', 'l', 'i', 'v', 'e'}

// KeepAlive asks a server by a PING that has said nothing for so long, while streams are open, and ends the connection
// if nothing comes within the timeout. Silence counts from now on. Time 0 is never.
func (c *Conn) KeepAlive(time, timeout time.Duration) {
	if time <= 0 {
		c.keepalive = nil
		return
	}
	c.keepalive = &keepalive{time: time, timeout: timeout}
	if len(c.streams) > 0 {
		c.restartKeepalive()
	}
}

// SlowKeepalive allows the server that much silence, if not more.
func (c *Conn) SlowKeepalive(time time.Duration) {
	if k := c.keepalive; k != nil {
		k.time = max(k.time, time)
	}
}

// KeepaliveTime is for how long the server may say nothing. Pinged says whether it has been asked.
func (c *Conn) KeepaliveTime() (_ time.Duration, pinged bool) {
	if k := c.keepalive; k != nil {
		return k.time, k.pinged
	}
	return 0, false
}

// restartKeepalive is called when a stream is opened.
func (c *Conn) restartKeepalive() {
	if k := c.keepalive; k != nil && k.due == 0 {
		c.heard, k.asked = c.group.now, 0
		c.lookIn(k.time)
	}
}

func (c *Conn) lookIn(d time.Duration) {
	c.keepalive.due = c.group.now + int64(d)
	c.arm(c.keepalive.due)
}

func (c *Conn) checkAlive() {
	k, now := c.keepalive, c.group.now
	if c.dead || k == nil || k.due == 0 {
		return
	}
	if k.due > now {
		c.arm(k.due)
		return
	}
	k.due = 0
	switch {
	case len(c.streams) == 0:
		return // until the next stream
	case k.asked == 0 && now-c.heard >= int64(k.time):
		k.asked, k.pinged = now, true
		c.out = h2.AppendPing(c.writable(), false, keepalivePing)
		c.mark()
		c.lookIn(k.timeout)
		return
	case k.asked != 0 && c.heard < k.asked:
		c.Close(ErrKeepalive)
		return
	}
	k.asked = 0
	c.lookIn(time.Duration(c.heard - now + int64(k.time)))
}

// keepsAlive is called when the server has answered a PING: there is another after as much silence, though keepalive's
// timeout may be longer than that.
func (c *Conn) keepsAlive() {
	if k := c.keepalive; k != nil && k.asked != 0 {
		k.asked = 0
		c.lookIn(k.time)
	}
}
