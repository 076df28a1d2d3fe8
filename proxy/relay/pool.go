package relay

import (
	"errors"
	"slices"
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2/session"
	"github.com/lbproxy/lbproxy/proxy/relay/netpoll"
)

// connPool is a worker's connections to an endpoint. One is always there, or being made; see connector. Others are
// added as long as the backend allows fewer streams on a connection than there are calls. Those that were told to go
// away live as long as their last call.
type connPool struct {
	all  *endpointConns
	grow func() // makes one more connection; it returns at once

	conns        []*conn           // that take calls, the first ones first
	queue        session.FairQueue // waits until they take one more, or until the router knows that there is none
	growing      bool              // one more connection is being made
	growFailures int               // additional connections in a row that could not be made, or were lost without use
	pause        timer             // set while none is to be tried: it tries again
	closed       bool              // no connection is to be made any more
}

// handshake is what is known of how a connection to a backend has begun, and why it takes no more calls.
type handshake struct {
	watcher    watcher
	err        error        // why it takes none any more; written before the watcher is told, as is:
	goneAway   *goAwayError // the backend's GOAWAY; nil if none has come
	served     bool         // a call has been answered, or runs on
	additional bool
	began      time.Time
	generation uint64 // of the endpoint, when it was begun to be made
}

// watcher is told once that a connection takes calls, and once that it takes none any more. It returns at once.
type watcher interface {
	onReady()
	onOver()
}

const (
	// growthPause is how long no connection is added after one could not be made or was lost; it doubles each time.
	growthPause    = time.Second
	maxGrowthPause = time.Minute
	// additionalIdle is how long an additional connection lives without calls.
	additionalIdle = 30 * time.Second
)

var (
	errExhausted = errors.New("the connection's stream identifiers are used up")
	errRenewed   = errors.New("the instance has been registered anew, and there is a connection for it")
)

func newConnPool(e *endpointConns) *connPool {
	p := &connPool{all: e}
	p.pause.fire = p.admit
	return p
}

func (p *connPool) newConn(in *core, d netpoll.Driver, watcher watcher, additional bool) *conn {
	c := in.newConn(backend, d)
	c.pool = p
	c.handshake = &handshake{watcher: watcher, additional: additional, began: in.now}
	c.life.fire = c.endIfIdle
	c.setKeepalive(p.all.live.Load().Keepalive)
	return c
}

func (c *conn) endIfIdle(*core) {
	if c.Len() == 0 {
		c.Close(session.ErrFinished)
	}
}

// addConn adds a connection, if there may be one more.
func (p *connPool) addConn(c *core) {
	if p.growing || p.closed || len(p.conns) >= c.cfg.MaxConnections || p.pause.place > 0 {
		return
	}
	p.growing = true
	p.grow()
}

// growFailed: the extra connection could not be made.
func (p *connPool) growFailed(c *core) {
	p.growing = false
	p.pauseGrowth(c)
}

// pauseGrowth adds no connection for a while.
func (p *connPool) pauseGrowth(c *core) {
	if !p.closed {
		c.set(&p.pause, c.now.Add(min(growthPause<<min(p.growFailures, 16), maxGrowthPause)))
		p.growFailures++
	}
}

// onGreeted is called when the backend's SETTINGS have come: only now is it known how many streams it takes.
func (p *connPool) onGreeted(c *conn) {
	p.conns = append(p.conns, c)
	p.retireOld()
	if c.handshake.additional {
		p.growing = false
	}
	c.handshake.watcher.onReady()
	for s := range p.queue.All() {
		attemptOf(s).x.stopWaiting(c.core)
	}
}

// retireOld parts with connections that were made for an earlier registration, now that there is one for a later.
func (p *connPool) retireOld() {
	newest := uint64(0)
	for _, c := range p.conns {
		newest = max(newest, c.handshake.generation)
	}
	for _, c := range slices.Clone(p.conns) {
		if c.handshake.generation < newest {
			p.retire(c, errRenewed)
		}
	}
}

// onGone is called when a connection takes no more calls: it has ended, or the backend wants it to.
func (p *connPool) onGone(c *conn, err error) {
	if c.handshake.err != nil {
		return
	}
	c.handshake.err, c.handshake.served = err, c.served || !c.Dead() && c.Len() > 0
	c.handshake.watcher.onOver()
	if c.handshake.additional && c.Greeted() {
		if c.handshake.served {
			p.growFailures = 0
		}
		if !errors.Is(err, session.ErrFinished) && !errors.Is(err, errRenewed) {
			p.pauseGrowth(c.core)
		}
	}
	i := slices.Index(p.conns, c)
	if i < 0 {
		return
	}
	p.conns = slices.Delete(p.conns, i, i+1)
	if len(p.conns) == 0 && p.queue.Len() > 0 {
		c.core.stranded = append(c.core.stranded, p)
	}
}

// onSlot is called when there may be room for one more stream on a connection.
func (p *connPool) onSlot(c *conn) {
	p.admit(c.core)
	switch {
	case !c.handshake.additional || c.Dead():
	case c.Len() > 0:
		c.core.timers.remove(&c.life)
	case c.life.place == 0:
		c.core.set(&c.life, c.core.now.Add(additionalIdle))
	}
}

// repick gives the calls that wait to whom the policy chooses now.
func (p *connPool) repick(c *core) {
	for range p.queue.Len() {
		s := p.queue.Pop()
		if s == nil {
			return
		}
		a := attemptOf(s)
		c.guard(a.x.owner, func() {
			a.leaveQueue()
			a.x.call.Unpick(a.picked)
			a.pick(c)
		})
	}
}

// attemptOf is the attempt that a stream to a backend belongs to.
func attemptOf(s *session.Stream) *attempt { return s.Handler().(*attempt) }

// assign opens a call on a connection, or queues it until the backend takes one more. If the connection has
// ended between the policy's last look and ours, the call waits for what comes first: run tells the policy, and
// it is picked for again, or there is a new connection.
func (p *connPool) assign(c *core, a *attempt) {
	if len(p.conns) == 0 {
		a.x.startWaiting(c)
	} else {
		a.x.stopWaiting(c)
		if cn := p.roomy(); cn != nil && p.queue.Len() == 0 {
			a.open(cn)
			return
		}
	}
	p.queue.Add(&a.stream)
	a.queued = true
	a.x.setStage(queueing, c.now)
	a.endpoint().CallQueued()
	p.all.waiting.Add(1)
	if p.full() {
		p.addConn(c)
	}
}

// admit opens the calls that wait for as long as there is room.
func (p *connPool) admit(c *core) {
	for p.queue.Len() > 0 {
		cn := p.roomy()
		if cn == nil {
			if p.full() {
				p.addConn(c)
			}
			return
		}
		a := attemptOf(p.queue.Pop())
		a.leaveQueue()
		a.open(cn)
	}
}

func (p *connPool) unqueue(a *attempt) {
	p.queue.Remove(&a.stream)
	a.leaveQueue()
}

// retire lets a connection take no more calls, and ends it with its last.
func (p *connPool) retire(c *conn, err error) {
	p.onGone(c, err)
	c.Finish()
}

// roomy is the first connection that a stream can be opened on; nil if there is none.
func (p *connPool) roomy() *conn {
	for _, c := range p.conns {
		if c.AllowsStream() && !c.Clogged() {
			return c
		}
	}
	return nil
}

// full says whether there are connections, and the backend allows no more streams on any.
func (p *connPool) full() bool {
	return len(p.conns) > 0 && !slices.ContainsFunc(p.conns, func(c *conn) bool { return c.AllowsStream() })
}
