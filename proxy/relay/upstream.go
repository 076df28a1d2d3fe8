package relay

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// upstream is a worker's connections to an endpoint. One is always there, or being made; see connect.go. Others are
// added as long as the backend allows fewer streams on a connection than there are calls. Those that were told to go
// away live as long as their last call.
type upstream struct {
	// Immutable:
	destination *destination
	shard       *shard
	ctx         context.Context
	stop        context.CancelFunc
	stopped     chan struct{} // closed when run has returned
	again       chan struct{} // receives when another connection is wanted
	nudged      chan struct{} // receives when it is worth trying again at once; nobody sends who would have to wait
	additional  sync.WaitGroup

	// Owned by run:
	failures  int       // attempts to connect, on end, that have come to nothing; see judge
	unreached bool      // the last one did not connect at all
	began     time.Time // when it did begin

	// The shard's lock protects:
	conns   []*conn // that take calls, the first ones first
	queue   line    // waits until they take one more, or until the policy knows that there is none
	growing bool    // one more connection is being made
	vain    int     // additional connections, on end, that could not be made or were lost without use
	pause   timer   // set while none is to be tried: it tries again
	closed  bool    // no connection is to be made any more
}

// link is what a connection's maker waits for.
type link struct {
	ready      chan struct{} // closed when it takes calls
	over       chan struct{} // closed when it takes none any more
	err        error         // why; written before over is closed, as is:
	goneAway   *goAwayError  // the backend's GOAWAY; nil if none has come
	served     bool          // a call has been answered, or runs on
	additional bool
	began      time.Time
	generation uint64 // of the destination, when it was begun to be made
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

func newUpstream(s *shard, d *destination) *upstream {
	u := &upstream{
		destination: d, shard: s, stopped: make(chan struct{}), again: make(chan struct{}, 1), nudged: make(chan struct{}),
		queue: line{side: backend},
	}
	u.ctx, u.stop = context.WithCancel(context.Background())
	u.pause.fire = u.admit
	return u
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
		c.set(&u.pause, c.now.Add(min(growthPause<<min(u.vain, 16), maxGrowthPause)))
		u.vain++
	}
}

// greeted is called when the backend's SETTINGS have come: only now is it known how many streams it takes.
func (u *upstream) greeted(c *conn) {
	u.conns = append(u.conns, c)
	u.retireOld()
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

// retireOld parts with connections that were made for an earlier registration, now that there is one for a later.
func (u *upstream) retireOld() {
	newest := uint64(0)
	for _, c := range u.conns {
		newest = max(newest, c.link.generation)
	}
	for _, c := range slices.Clone(u.conns) {
		if c.link.generation < newest {
			u.retire(c, errRenewed)
		}
	}
}

// over is called when a connection takes no more calls: it has ended, or the backend wants it to.
func (u *upstream) over(c *conn, err error) {
	if c.link.err != nil {
		return
	}
	c.link.err, c.link.served = err, c.served || !c.dead && len(c.streams) > 0
	close(c.link.over)
	if c.link.additional && c.greeted {
		if c.link.served {
			u.vain = 0
		}
		if !errors.Is(err, errFinished) && !errors.Is(err, errRenewed) {
			u.rest(c.core)
		}
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
