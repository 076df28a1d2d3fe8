package relay

import (
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/transport"
	"github.com/lbproxy/lbproxy/traffic"
)

// keepalive finds out whether a silent backend is still there, while calls run.
type keepalive struct {
	traffic.Keepalive
	asked  time.Time // by a PING that nothing has followed; zero if there is none
	pinged bool      // at some time
	timer  timer
}

const (
	// tooManyPings is what gRPC servers say with GOAWAY where PINGs are the reason (gRFC A8).
	tooManyPings = "too_many_pings"
	// maxPingInterval is what gRPC servers themselves do, which is as little as anybody asks for.
	maxPingInterval = 2 * time.Hour
)

// keepalivePing is what our PINGs carry. Whatever comes after one answers it.
var keepalivePing = [8]byte{'a', 'l', 'i', 'v', 'e'}

// reload applies a service's settings to its open connections.
func (c *core) reload(live *transport.Live) {
	for cn := range c.conns {
		if cn.side == backend && cn.pool.all.live == live {
			c.current = cn
			cn.setKeepalive(live.Load().Keepalive)
		}
	}
}

// setKeepalive applies a service's settings. Silence counts from now on.
func (c *conn) setKeepalive(settings traffic.Keepalive) {
	if c.keepalive != nil {
		c.core.timers.remove(&c.keepalive.timer)
	}
	if settings.Time <= 0 {
		c.keepalive = nil
		return
	}
	c.keepalive = &keepalive{Keepalive: settings, timer: timer{fire: c.checkAlive}}
	if len(c.streams) > 0 {
		c.keepAlive()
	}
}

// keepAlive looks after a connection that calls run on, if its service wants it.
func (c *conn) keepAlive() {
	k := c.keepalive
	if k == nil {
		return
	}
	k.Time = max(k.Time, time.Duration(c.pool.all.pingInterval.Load()))
	if k.timer.place == 0 {
		c.heard, k.asked = c.core.now, time.Time{}
		c.core.set(&k.timer, c.core.now.Add(k.Time))
	}
}

func (c *conn) checkAlive(core *core) {
	k := c.keepalive
	core.current = c
	switch {
	case len(c.streams) == 0:
		return // until the next call
	case k.asked.IsZero() && core.now.Sub(c.heard) >= k.Time:
		k.asked, k.pinged = core.now, true
		c.out = h2.AppendPing(c.writable(), false, keepalivePing)
		c.mark()
		core.set(&k.timer, core.now.Add(k.Timeout))
		return
	case !k.asked.IsZero() && c.heard.Before(k.asked):
		c.end(errKeepalive)
		return
	}
	k.asked = time.Time{}
	core.set(&k.timer, c.heard.Add(k.Time))
}

// keepsAlive is called when the backend has answered a PING: there is another after as much silence, though keepalive's
// timeout may be longer than that.
func (c *conn) keepsAlive() {
	if k := c.keepalive; k != nil && !k.asked.IsZero() {
		k.asked = time.Time{}
		c.core.set(&k.timer, c.core.now.Add(k.Time))
	}
}

// pingLess doubles the time between PINGs to the endpoint, on whatever connection, if the backend ends this one for too
// many of them (gRFC A8). It returns what that time is now; 0 if it stays as it was.
func (c *conn) pingLess(text string) time.Duration {
	k, interval := c.keepalive, &c.pool.all.pingInterval
	if k == nil || !k.pinged && text != tooManyPings {
		return 0
	}
	for {
		old, wanted := interval.Load(), int64(min(2*k.Time, max(k.Time, maxPingInterval)))
		if wanted <= old { // another connection's end has seen to it
			return time.Duration(old)
		}
		if interval.CompareAndSwap(old, wanted) {
			return time.Duration(wanted)
		}
	}
}
