package relay

import (
	"time"

	"github.com/lbproxy/lbproxy/proxy/transport"
	"github.com/lbproxy/lbproxy/traffic"
)

const (
	// tooManyPings is what gRPC servers say with GOAWAY where PINGs are the reason (gRFC A8).
	tooManyPings = "too_many_pings"
	// maxPingInterval is what gRPC servers themselves do, which is as little as anybody asks for.
	maxPingInterval = 2 * time.Hour
)

// reload applies a service's settings to its open connections.
func (c *core) reload(live *transport.Live) {
	for cn := range c.conns {
		if cn.side == backend && cn.pool.all.live == live {
			c.guard(cn, func() { cn.setKeepalive(live.Load().Keepalive) })
		}
	}
}

// setKeepalive applies a service's settings. Silence counts from now on.
func (c *conn) setKeepalive(k traffic.Keepalive) {
	c.KeepAlive(k.Time, k.Timeout)
	c.slowKeepalive()
}

// slowKeepalive asks the backend no more often than it puts up with.
func (c *conn) slowKeepalive() { c.SlowKeepalive(time.Duration(c.pool.all.pingInterval.Load())) }

// pingLess doubles the time between PINGs to the endpoint, on whatever connection, if the backend ends this one for too
// many of them (gRFC A8). It returns what that time is now; 0 if it stays as it was.
func (c *conn) pingLess(text string) time.Duration {
	every, pinged := c.KeepaliveTime()
	if !pinged && text != tooManyPings || every <= 0 {
		return 0
	}
	for interval := &c.pool.all.pingInterval; ; {
		old, wanted := interval.Load(), int64(min(2*every, max(every, maxPingInterval)))
		if wanted <= old { // another connection's end has seen to it
			return time.Duration(old)
		}
		if interval.CompareAndSwap(old, wanted) {
			return time.Duration(wanted)
		}
	}
}
