package relay

import "time"

// How callers are asked to leave.

// drainPatience is how long a caller may take to say that it has seen our first GOAWAY.
const drainPatience = time.Second

// drain lets the caller go, so that no stream is refused that was on its way.
func (c *conn) drain() {
	if c.Leaving() || c.Dead() {
		return
	}
	c.core.set(&c.life, c.core.now.Add(drainPatience))
	c.Drain()
}

// startAging limits the age of a caller's connection.
func (c *conn) startAging() {
	switch age := c.core.cfg.MaxConnectionAge; {
	case c.Leaving(): // it ends anyway
	case age > 0:
		c.core.set(&c.life, c.core.now.Add(spread(age)))
	default:
		c.core.timers.remove(&c.life)
	}
}

// expire is called when a caller's connection has reached its age, when it has not greeted in time, and when it has
// not answered the PING.
func (c *conn) expire(*core) {
	switch {
	case c.Leaving():
		c.FinishDrain()
	case !c.Greeted():
		c.Close(errSilent)
	default:
		c.drain()
	}
}
