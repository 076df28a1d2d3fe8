package relay

import (
	"iter"
	"time"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
	"github.com/lbproxy/lbproxy/traffic"
)

// core is the protocol state of one worker: its connections and the calls between them. Bytes and time go in,
// bytes and requests to its host come out. It does no I/O itself. Whoever calls into it holds the worker's lock, has set
// now, and calls enforceLimits afterwards.
type core struct {
	cfg     Config
	index   int // of the worker
	host    host
	metrics *metrics.Relay
	now     time.Time

	conns      map[*conn]struct{}
	dirty      []*conn   // have bytes to be written
	borrowers  []*conn   // have some of them in read buffers
	free       *exchange // used ones, to be used again
	frees      int       // how many
	calls      int       // that run
	readBuffer []byte    // that connections are read to, one at a time
	buffers    buffers   // for what connections write
	storage    storage   // for what calls hold
	timers     timers
	resume     timer                  // with what a defect has cut short
	waiting    map[*exchange]struct{} // for an endpoint to connect
	memory     memory
	overLimit  []*conn // to be closed between frames
	current    *conn   // the connection being served; a panic costs this one

	// The field block decoded last, whose fields stand here until the next.
	fields  []hpack.Field
	size    uint32 // of them, as SETTINGS_MAX_HEADER_LIST_SIZE counts
	encoded []byte // the field block encoded last
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
	// dial asks for one more connection for p.
	dial(p *connPool)
	// connEnded tells that a connection has ended, and why.
	connEnded(c *conn, why error)
	// onDefect is called with what a defect in the core has panicked with, before its connection is closed.
	onDefect(defect any)
}

func newCore(cfg Config, index int, m *metrics.Relay, w host) *core {
	c := &core{
		cfg: cfg, index: index, metrics: m, host: w,
		conns:      map[*conn]struct{}{},
		waiting:    map[*exchange]struct{}{},
		readBuffer: make([]byte, readBuffer),
		memory:     memory{limit: int(cfg.Memory) / cfg.Workers},
	}
	c.resume.fire = (*core).repickWaiting
	return c
}

// side is one of the two ends of a call.
type side int

const (
	caller side = iota
	backend
)

func (s side) other() side { return 1 - s }

func (s side) String() string {
	if s == caller {
		return metrics.PeerCaller
	}
	return metrics.PeerBackend
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

// maxFree, maxKept and maxKeptFields bound what is kept for other calls: exchanges, buffers that are not the storage's,
// and lists of fields.
const (
	maxFree       = 512
	maxKept       = 16 << 10
	maxKeptFields = 128
)

// recycle makes an exchange that nothing refers to ready for another call.
func (c *core) recycle(x *exchange) {
	c.calls--
	c.timers.remove(&x.timer)
	c.storage.clear(&x.retryBuffer)
	for i := range x.streams {
		c.storage.clear(&x.streams[i].queue)
		c.forgetGrowth(&x.streams[i])
	}
	c.chargeWith(x, 0)
	if c.frees == maxFree {
		return
	}
	for i := range x.streams {
		x.streams[i] = stream{trailers: keptFields(x.streams[i].trailers)}
	}
	*x = exchange{streams: x.streams, request: keptFields(x.request), timer: x.timer, next: c.free}
	c.free = x
	c.frees++
}

func kept(b []byte) []byte {
	if cap(b) > maxKept {
		return nil
	}
	return b[:0]
}

// keptFields are fields of a call that are kept for others, emptied.
func keptFields(fields []hpack.Field) []hpack.Field {
	if cap(fields) > maxKeptFields {
		return nil
	}
	return cleared(fields)
}

// cleared empties fields without keeping their strings alive.
func cleared(fields []hpack.Field) []hpack.Field {
	clear(fields)
	return fields[:0]
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
		t.fire(c)
	}
	c.host.wakeAt(c.timers.next())
}

// repickWaiting picks again for the calls that wait for an endpoint.
func (c *core) repickWaiting() {
	for x := range c.waiting {
		c.current = x.owner
		x.pick(c)
	}
}

// step does something in response to the world, now. A defect in it costs the connection that is being served, c to
// begin with, and no other.
func (c *core) step(cn *conn, f func()) {
	defer c.contain()
	c.current = cn
	f()
	c.enforceLimits()
}

// contain is deferred where the core is entered.
func (c *core) contain() {
	if defect := recover(); defect != nil {
		c.metrics.Defect()
		c.host.onDefect(defect)
		if c.current != nil {
			c.current.endAfterDefect()
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
	c.end(errDefect)
}

// flush writes what there is to be written.
func (c *core) flush() {
	for len(c.dirty) > 0 {
		last := len(c.dirty) - 1
		cn := c.dirty[last]
		c.dirty = c.dirty[:last]
		cn.driver.Flush()
	}
	c.copyBorrowed()
	c.metrics.SetMemory(c.index, c.memory.used)
}

// enforceLimits closes connections over a limit; only between frames, as it pulls streams away.
func (c *core) enforceLimits() {
	for len(c.overLimit) > 0 {
		last := len(c.overLimit) - 1
		cn := c.overLimit[last]
		c.overLimit = c.overLimit[:last]
		c.current = cn
		cn.fail(errUnread)
	}
	if c.memory.exceeded() {
		c.shed()
	}
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
		for _, x := range cn.streams {
			x.fail(c, proxy.ErrDraining())
		}
		cn.onPingAck(drainPing)
	}
}

// endAll ends the connections of callers that do not read.
func (c *core) endAll() {
	for cn := range c.callers() {
		cn.end(errUnread)
	}
}
