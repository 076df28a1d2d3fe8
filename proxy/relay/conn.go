package relay

import (
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
	"github.com/lbproxy/lbproxy/proxy/relay/netpoll"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// conn is a connection of a caller, to which we are the server, or one to a backend.
type conn struct {
	session.Conn

	// Immutable:
	core      *core
	driver    netpoll.Driver
	listener  *listener  // of a caller's
	pool      *connPool  // of one to a backend
	handshake *handshake // of one to a backend

	held   int    // what a caller's calls are charged with
	life   timer  // a caller's is to have greeted, or to connect anew; an additional one to a backend has nothing to do
	alarm  *timer // of the session; nil before it has asked for one
	side   side   // who is at the other end
	served bool   // a backend has answered a call
}

func (c *core) newConn(s side, d netpoll.Driver) *conn {
	cn := &conn{core: c, side: s, driver: d}
	cn.life.of = cn
	c.conns[cn] = struct{}{}
	c.metrics.ConnectionOpened(s.String())
	role := session.Server
	if s == backend {
		role = session.Client
	}
	cn.Init(c.sessions, role, cn)
	return cn
}

// newCaller takes a caller in.
func (c *core) newCaller(d netpoll.Driver, l *listener) *conn {
	cn := c.newConn(caller, d)
	cn.listener = l
	cn.life.fire = cn.expire
	c.set(&cn.life, c.now.Add(c.cfg.HandshakeTimeout))
	if c.draining {
		cn.drain()
	}
	return cn
}

// spread is a duration within a tenth of d, so that those who came together do not all leave together.
func spread(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

// Recognize implements [session.Handler].
func (c *conn) Recognize(said []byte) (answer []byte, err error) {
	if c.side == backend {
		if err := transport.ForeignGreeting(said); err != nil {
			return nil, ungreeted{err, metrics.CauseProtocol}
		}
		return nil, nil
	}
	if foreign := transport.Recognize(said, c.core.cfg.Admin); foreign != nil {
		return foreign.Answer, foreign
	}
	return nil, nil
}

// OnRequest implements [session.Handler].
func (c *conn) OnRequest() *session.Stream {
	x := c.core.newExchange()
	x.owner, x.began, x.since, x.replayable, x.code = c, c.core.now, c.core.now, true, codes.Unknown
	x.timer.of = c
	x.caller.Init(c.core.sessions, x, &c.Conn)
	return &x.caller
}

var rejections = [...]metrics.Rejection{
	session.TooLarge: metrics.TooLarge, session.WhileDraining: metrics.WhileDraining,
	session.TooManyStreams: metrics.TooManyStreams, session.Malformed: metrics.Malformed,
}

// OnRejected implements [session.Handler].
func (c *conn) OnRejected(why session.Rejection) { c.core.metrics.RequestRejected(rejections[why]) }

// OnGreeted implements [session.Handler].
func (c *conn) OnGreeted() {
	if c.pool != nil {
		c.pool.onGreeted(c)
	} else {
		c.startAging()
	}
}

// OnSlot implements [session.Handler].
func (c *conn) OnSlot() { c.core.guard(c, func() { c.pool.onSlot(c) }) }

// OnUnread implements [session.Handler].
func (c *conn) OnUnread(err error) { c.core.guard(c, func() { c.Fail(err) }) }

// OnOutput implements [session.Handler].
func (c *conn) OnOutput() { c.core.dirty = append(c.core.dirty, c) }

// OnTimer implements [session.Handler].
func (c *conn) OnTimer(d time.Duration) {
	if c.alarm == nil {
		c.alarm = &timer{of: c, fire: func(*core) { c.Expire() }}
	}
	c.core.set(c.alarm, c.core.now.Add(d))
}

// OnFrame implements [session.Handler].
func (c *conn) OnFrame() { c.core.settle() }

// OnClosed implements [session.Handler].
func (c *conn) OnClosed(err error) error {
	core := c.core
	if c.pool != nil && !c.Greeted() {
		err = c.ungreeted(err)
	}
	c.driver.Close()
	core.host.connEnded(c, err)
	core.metrics.ConnectionEnded(c.side.String(), causeOf(err))
	core.timers.remove(&c.life)
	if c.alarm != nil {
		core.timers.remove(c.alarm)
	}
	delete(core.conns, c)
	if c.pool == nil {
		return err
	}
	c.pool.onGone(c, err)
	c.servesNoMore()
	return c.handshake.because(err)
}
