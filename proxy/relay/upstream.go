package relay

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// upstream is a worker's connections to an endpoint. One is always there, or being made. Others are added as
// long as the backend allows fewer streams on a connection than there are calls. Those that were told to go
// away live as long as their last call.
type upstream struct {
	// Immutable:
	destination *destination
	shard       *shard
	ctx         context.Context
	stop        context.CancelFunc
	stopped     chan struct{} // closed when run has returned
	again       chan struct{} // receives when it is worth trying again at once
	additional  sync.WaitGroup

	// The shard's lock protects:
	conns   []*conn // that take calls, the first ones first
	queue   line    // waits until they take one more, or until the policy knows that there is none
	growing bool    // one more connection is being made
	pause   timer   // set while none is to be tried: it tries again
	closed  bool    // no connection is to be made any more
}

// link is what a connection's maker waits for.
type link struct {
	ready      chan struct{} // closed when it takes calls
	over       chan struct{} // closed when it takes none any more
	err        error         // why; written before over is closed
	additional bool
}

const (
	// growthPause is how long no connection is added after one could not be made or was lost.
	growthPause = time.Second
	// additionalIdle is how long an additional connection lives without calls.
	additionalIdle = 30 * time.Second
)

var (
	errGoAway    = errors.New("the backend has sent GOAWAY")
	errExhausted = errors.New("the connection's stream identifiers are used up")
	errHandshake = errors.New("TCP connects but HTTP/2 does not; check that a gRPC server without TLS listens there")
)

func newUpstream(s *shard, d *destination) *upstream {
	u := &upstream{
		destination: d, shard: s, stopped: make(chan struct{}), again: make(chan struct{}, 1), queue: line{side: backend},
	}
	u.ctx, u.stop = context.WithCancel(context.Background())
	u.pause.fire = u.admit
	return u
}

func (u *upstream) reset() {
	select {
	case u.again <- struct{}{}:
	default: // it is about to try
	}
}

// run keeps the endpoint connected and tells it how it stands. It ends by stop.
func (u *upstream) run() {
	defer u.finish()
	retry := &backoff.ExponentialBackOff{
		InitialInterval: transport.ConnectBackoffMin, MaxInterval: transport.ConnectBackoffMax, Multiplier: 1.6, RandomizationFactor: 0.2,
	}
	for {
		worked, err := u.connect(false)
		if u.ctx.Err() != nil {
			return
		}
		if worked {
			retry.Reset()
			u.setState(picker.Connecting, err)
			continue
		}
		u.setState(picker.Failed, err)
		select {
		case <-time.After(retry.NextBackOff()):
		case <-u.again:
			retry.Reset()
		case <-u.ctx.Done():
			return
		}
	}
}

func (u *upstream) finish() {
	u.shard.enter(func(c *core) {
		u.closed = true
		c.timers.remove(&u.pause)
	})
	u.additional.Wait()
	close(u.stopped)
}

func (u *upstream) setState(state picker.State, cause error) {
	u.destination.setState(u.shard.core.index, state, cause)
	if state != picker.Ready {
		u.shard.enter(u.repick)
	}
}

// connect makes a connection and stays with it until it takes no more calls. It tells whether it ever did.
func (u *upstream) connect(additional bool) (worked bool, err error) {
	share := u.destination.share
	if err := share.Take(); err != nil {
		return false, err
	}
	nc, err := transport.BackendDialer().DialContext(u.ctx, "tcp", u.destination.endpoint.Addr())
	if err != nil {
		share.Return()
		return false, err
	}
	c, err := u.shard.attach(nc, share.Return, func(d driver) *conn { return u.newConn(u.shard.core, d, additional) })
	if err != nil {
		share.Return()
		return false, err
	}
	handshake := time.NewTimer(transport.ConnectTimeout)
	defer handshake.Stop()
	select {
	case <-c.link.ready:
	case <-c.link.over:
		return false, errHandshake
	case <-handshake.C:
		u.shard.enter(func(*core) { c.end(errHandshake) })
		return false, errHandshake
	case <-u.ctx.Done():
		u.shard.enter(func(*core) { c.end(errFinished) })
		return false, u.ctx.Err()
	}
	if !additional {
		u.setState(picker.Ready, nil)
	}
	select {
	case <-c.link.over:
		return true, c.link.err
	case <-u.ctx.Done():
		u.shard.enter(func(*core) { c.end(errFinished) })
		return true, u.ctx.Err()
	}
}

func (u *upstream) newConn(in *core, d driver, additional bool) *conn {
	c := in.newConn(backend, d)
	c.upstream = u
	c.link = &link{ready: make(chan struct{}), over: make(chan struct{}), additional: additional}
	c.life.fire = c.endIfIdle
	return c
}

func (c *conn) endIfIdle(core *core) {
	core.blame = c
	if len(c.streams) == 0 {
		c.end(errFinished)
	}
}

// grow adds a connection, if there may be one more.
func (u *upstream) grow(c *core) {
	if u.growing || u.closed || len(u.conns) >= c.cfg.MaxConnections || u.pause.place > 0 {
		return
	}
	u.growing = true
	c.wishes.dial(u)
}

// grewNot is called when one more connection could not be made.
func (u *upstream) grewNot(c *core) {
	u.growing = false
	u.rest(c)
}

// rest has no connection be added for a while.
func (u *upstream) rest(c *core) {
	if !u.closed {
		c.set(&u.pause, c.now.Add(growthPause))
	}
}

// dialAdditional makes one more connection and stays with it.
func (u *upstream) dialAdditional() {
	if worked, _ := u.connect(true); !worked {
		u.shard.enter(u.grewNot)
	}
}

// greeted is called when the backend's SETTINGS have come: only now is it known how many streams it takes.
func (u *upstream) greeted(c *conn) {
	u.conns = append(u.conns, c)
	if c.link.additional {
		u.growing = false
		u.left(c)
	}
	close(c.link.ready)
	for t := u.queue.first; t != nil; t = t.after {
		for st := t.first; st != nil; st = st.half[backend].after {
			st.stopWaiting(c.core)
		}
	}
	u.admit(c.core)
}

// over is called when a connection takes no more calls: it has ended, or the backend wants it to.
func (u *upstream) over(c *conn, err error) {
	if c.link.err != nil {
		return
	}
	c.link.err = err
	close(c.link.over)
	if c.link.additional && !errors.Is(err, errFinished) {
		u.rest(c.core)
	}
	i := slices.Index(u.conns, c)
	if i < 0 {
		return
	}
	u.conns = slices.Delete(u.conns, i, i+1)
	if len(u.conns) == 0 {
		u.repick(c.core)
	}
}

// left is called when a call has ended on a connection.
func (u *upstream) left(c *conn) {
	u.admit(c.core)
	if c.link.additional && len(c.streams) == 0 && !c.dead {
		c.core.set(&c.life, c.core.now.Add(additionalIdle))
	}
}

// repick gives the calls that wait to whom the policy chooses now.
func (u *upstream) repick(c *core) {
	for range u.queue.len {
		st := u.queue.pop()
		if st == nil {
			return
		}
		st.leaveQueue()
		c.blame = st.owner
		st.call.Unpick()
		st.pick(c)
	}
}

// take opens a call on a connection, or has it wait until the backend takes one more. If the connection has
// ended between the policy's last look and ours, the call waits for what comes first: run tells the policy, and
// has it picked again, or there is a new connection.
func (u *upstream) take(c *core, st *stream) {
	if len(u.conns) == 0 {
		st.startWaiting(c)
	} else {
		st.stopWaiting(c)
		if cn := u.roomy(); cn != nil && u.queue.len == 0 {
			st.open(cn)
			return
		}
	}
	u.queue.add(st, st.owner)
	st.queued = true
	st.enter(queueing, c.now)
	st.call.Endpoint().CallQueued()
	u.destination.waiting.Add(1)
	if u.full() {
		u.grow(c)
	}
}

// admit opens the calls that wait for as long as there is room.
func (u *upstream) admit(c *core) {
	for u.queue.len > 0 {
		cn := u.roomy()
		if cn == nil {
			if u.full() {
				u.grow(c)
			}
			return
		}
		st := u.queue.pop()
		st.leaveQueue()
		st.open(cn)
	}
}

func (u *upstream) unqueue(st *stream) {
	u.queue.remove(st)
	st.leaveQueue()
}

// leaveQueue notes that a call waits for a stream no longer.
func (st *stream) leaveQueue() {
	st.queued = false
	st.call.Endpoint().CallUnqueued()
	st.call.Endpoint().Conn().(*destination).waiting.Add(-1)
}

// retire has a connection take no more calls, and end with its last.
func (u *upstream) retire(c *conn, err error) {
	c.leaving, c.finished = true, true
	u.over(c, err)
	c.closeIfFinished()
}

// roomy is the first connection that a stream can be opened on; nil if there is none.
func (u *upstream) roomy() *conn {
	for _, c := range u.conns {
		if c.allowsStream() && c.requests < highWater {
			return c
		}
	}
	return nil
}

// full says whether there are connections, and the backend allows no more streams on any.
func (u *upstream) full() bool {
	return len(u.conns) > 0 && !slices.ContainsFunc(u.conns, (*conn).allowsStream)
}

func (c *conn) allowsStream() bool {
	return !c.dead && !c.leaving && uint32(len(c.streams)) < c.peer.MaxConcurrentStreams
}
