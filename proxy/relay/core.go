package relay

import (
	"iter"
	"time"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
	"github.com/lbproxy/lbproxy/traffic"
)

// core is the protocol state of one worker: its connections and the calls between them. Bytes and time go in,
// bytes and requests to its host come out. It does no I/O itself. Whoever calls into it holds the worker's lock, has set
// the time, and calls settle afterwards, as step does.
type core struct {
	cfg     Config
	index   int // of the worker
	host    host
	metrics *metrics.Relay
	now     time.Time

	conns    map[*conn]struct{}
	dirty    []*conn   // have bytes to be written
	free     *exchange // used ones, to be used again
	attempts *attempt  // so, too
	frees    int       // how many
	calls    int       // that run
	sessions *session.Group
	timers   timers
	resume   timer                 // with what a defect has cut short
	waiting  map[*attempt]struct{} // for an endpoint to connect
	memory   memory
	limits   session.Limits
	stranded []*connPool // have calls that wait, and have lost their last connection

	request traffic.Request
	status  []hpack.Field // of the proxy's own, made last

	draining bool
}

// host is what the core asks of whoever drives it.
type host interface {
	// wakeAt asks for a call of expire at t or soon after, and perhaps before. The zero time is never.
	wakeAt(t time.Time)
	// wakeWhen asks for a call of repickWaiting when the channel closes.
	wakeWhen(again <-chan struct{})
	// connEnded tells that a connection has ended, and why.
	connEnded(c *conn, why error)
	// onDefect is called with what a defect in the core has panicked with, before its connection is closed.
	onDefect(defect any)
}

func newCore(cfg Config, index int, m *metrics.Relay, w host) *core {
	c := &core{
		cfg: cfg, index: index, metrics: m, host: w,
		conns:   map[*conn]struct{}{},
		waiting: map[*attempt]struct{}{},
		memory:  memory{limit: int(cfg.Memory) / cfg.Workers},
	}
	c.limits = session.Limits{
		MaxStreams: cfg.MaxStreams, MaxHeaderList: cfg.MaxHeaderList, MaxGlitches: cfg.MaxGlitches, MaxUnread: cfg.MaxUnread,
	}
	c.sessions = session.NewGroup(&c.limits, &c.memory)
	c.resume.fire = (*core).repickWaiting
	return c
}

// side is one of the two ends of a call.
type side uint8

const (
	caller side = iota
	backend
)

func (s side) String() string {
	if s == caller {
		return metrics.PeerCaller
	}
	return metrics.PeerBackend
}

// setNow sets the time.
func (c *core) setNow(now time.Time) {
	c.now = now
	c.sessions.SetNow(now)
}

// newExchange returns an exchange that is not in use.
func (c *core) newExchange() *exchange {
	c.calls++
	x := c.free
	if x == nil {
		x = new(exchange)
		x.timer.fire = x.timedOut
		return x
	}
	c.free, x.next = x.next, nil
	c.frees--
	return x
}

// newAttempt adds an attempt to an exchange.
func (c *core) newAttempt(x *exchange) *attempt {
	a := c.attempts
	if a == nil {
		a = new(attempt)
	} else {
		c.attempts, a.next = a.next, nil
	}
	a.x = x
	a.stream.Init(c.sessions, a, &x.owner.Conn)
	x.attempts = append(x.attempts, a)
	return a
}

// maxFree bounds how many exchanges are kept for other calls.
const maxFree = 512

// recycle makes an exchange that nothing refers to ready for another call.
func (c *core) recycle(x *exchange) {
	c.calls--
	c.timers.remove(&x.timer)
	c.sessions.Storage().Clear(&x.retryBuffer)
	x.caller.Clear()
	for _, a := range x.attempts {
		a.stream.Clear()
	}
	c.chargeWith(x, 0)
	if c.frees == maxFree {
		return
	}
	for i, a := range x.attempts {
		*a = attempt{stream: a.stream, next: c.attempts}
		c.attempts, x.attempts[i] = a, nil
	}
	x.timer.of = nil
	*x = exchange{
		caller: x.caller, attempts: x.attempts[:0], request: session.KeptFields(x.request), timer: x.timer, next: c.free,
	}
	c.free = x
	c.frees++
}

// set sets a timer; the zero time is never.
func (c *core) set(t *timer, at time.Time) {
	c.timers.set(t, at)
	c.host.wakeAt(c.timers.next())
}

// expire fires the timers that are due.
func (c *core) expire() {
	for {
		t := c.timers.takeDue(c.now)
		if t == nil {
			break
		}
		c.guard(t.of, func() { t.fire(c) })
	}
	c.host.wakeAt(c.timers.next())
}

// repickWaiting picks again for the calls that wait for an endpoint.
func (c *core) repickWaiting() {
	for a := range c.waiting {
		c.guard(a.x.owner, func() { a.pick(c) })
	}
}

// step does something in response to the world, now. A defect in it costs cn, if that is not nil, and no other.
func (c *core) step(cn *conn, f func()) {
	c.guard(cn, f)
	c.settle()
}

// settle does what must not be done in the middle of a frame: connections end that are over a limit, and calls that have
// waited for a stream get one.
func (c *core) settle() {
	c.sessions.Settle()
	for len(c.stranded) > 0 {
		last := len(c.stranded) - 1
		p := c.stranded[last]
		c.stranded = c.stranded[:last]
		p.repick(c)
	}
	if c.memory.exceeded() {
		c.shed()
	}
}

// guard calls f. A defect in it costs cn.
func (c *core) guard(cn *conn, f func()) {
	defer c.contain(cn)
	f()
}

func (c *core) contain(cn *conn) {
	if defect := recover(); defect != nil {
		c.metrics.Defect()
		c.host.onDefect(defect)
		if cn != nil {
			cn.endAfterDefect()
		}
		c.set(&c.resume, c.now)
	}
}

func (c *conn) endAfterDefect() {
	defer func() {
		if recover() != nil {
			c.abandon()
		}
	}()
	c.Close(errDefect)
}

// flush writes what there is to be written.
func (c *core) flush() {
	for len(c.dirty) > 0 {
		last := len(c.dirty) - 1
		cn := c.dirty[last]
		c.dirty = c.dirty[:last]
		cn.driver.Flush()
	}
	c.sessions.CopyBorrowed()
	c.metrics.SetMemory(c.index, c.memory.used)
}

// callers are the connections of callers.
func (c *core) callers() iter.Seq[*conn] {
	return func(yield func(*conn) bool) {
		for cn := range c.conns {
			if cn.side == caller && !yield(cn) {
				return
			}
		}
	}
}

// drainAll lets all callers go.
func (c *core) drainAll() {
	c.draining = true
	for cn := range c.callers() {
		cn.drain()
	}
}

// failAll fails the calls that still run when the proxy must end, and lets their connections go.
func (c *core) failAll() {
	for cn := range c.callers() {
		for s := range cn.Streams() {
			exchangeOf(s).fail(c, proxy.ErrDraining())
		}
		cn.FinishDrain()
	}
}

// endAll ends the connections of callers that do not read.
func (c *core) endAll() {
	for cn := range c.callers() {
		cn.Close(session.ErrUnread)
	}
}

// exchangeOf is the exchange that a stream of a caller belongs to.
func exchangeOf(s *session.Stream) *exchange { return s.Handler().(*exchange) }
