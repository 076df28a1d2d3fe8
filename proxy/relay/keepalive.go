package relay

import (
	"time"

	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2"
)

// keepalive finds out whether a silent backend is still there, while calls run.
type keepalive struct {
	proxy.Keepalive
	heard time.Time // from the peer, last
	asked time.Time // by a PING that nothing has followed; zero if there is none
	timer timer
}

// keepalivePing is what our PINGs carry. Whatever comes after one answers it.
var keepalivePing = [8]byte{'a', 'l', 'i', 'v', 'e'}

// watch begins to look after a connection that a call is opened on, as its service wants it.
func (c *conn) watch(k proxy.Keepalive) {
	c.keepalive.Keepalive = k
	if k.Time > 0 && c.keepalive.timer.place == 0 {
		c.keepalive.heard, c.keepalive.asked = c.core.now, time.Time{}
		c.core.set(&c.keepalive.timer, c.core.now.Add(k.Time))
	}
}

func (c *conn) checkAlive(core *core) {
	k := &c.keepalive
	core.blame = c
	switch {
	case len(c.streams) == 0 || k.Time <= 0:
		return // until the next call
	case k.asked.IsZero() && core.now.Sub(k.heard) >= k.Time:
		k.asked = core.now
		c.out = h2.AppendPing(c.writable(), false, keepalivePing)
		c.mark()
		core.set(&k.timer, core.now.Add(k.Timeout))
		return
	case !k.asked.IsZero() && k.heard.Before(k.asked):
		c.end(errKeepalive)
		return
	}
	k.asked = time.Time{}
	core.set(&k.timer, k.heard.Add(k.Time))
}
