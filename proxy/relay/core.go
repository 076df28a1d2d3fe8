package relay

import (
	"iter"
	"time"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

// core is the protocol state of one shard: its connections and the calls between them. Bytes and time go in,
// bytes and wishes come out; it does no I/O itself, and whoever calls into it holds the shard's lock, has set
// now, and calls relieve in the end.
type core struct {
	cfg     Config
	index   int // of the shard
	wishes  wishes
	metrics *metrics.Relay
	now     time.Time

	conns      map[*conn]struct{}
	dirty      []*conn // have bytes to be written
	borrowers  []*conn // have some of them in read buffers
	free       *stream // used ones, to be used again
	frees      int     // how many
	calls      int     // that run
	readBuffer []byte  // that connections are read to, one at a time
	buffers    buffers // for what connections write
	storage    storage // for what calls hold
	timers     timers
	resume     timer                // with what a defect has cut short
	waiting    map[*stream]struct{} // for an endpoint to connect
	memory     memory
	doomed     []*conn // are to end as soon as nothing else is being done
	blame      *conn   // whose doing is being handled

	// The field block decoded last, whose fields stand here until the next.
	fields  []hpack.Field
	size    uint32 // of them, as SETTINGS_MAX_HEADER_LIST_SIZE counts
	encoded []byte // the field block encoded last
	request proxy.Request
	status  []hpack.Field // of the proxy's own, made last

	draining bool
}

// wishes are what the core wants of its driver.
type wishes interface {
	// wakeAt has expire called at t or soon after, and perhaps before. The zero time is never.
	wakeAt(t time.Time)
	// wakeWhen has retry called when the channel closes.
	wakeWhen(again <-chan struct{})
	// dial has one more connection made for u.
	dial(u *upstream)
}

func newCore(cfg Config, index int, m *metrics.Relay, w wishes) *core {
	c := &core{
		cfg: cfg, index: index, metrics: m, wishes: w,
		conns:      map[*conn]struct{}{},
		waiting:    map[*stream]struct{}{},
		readBuffer: make([]byte, readBuffer),
		memory:     memory{limit: int(cfg.Memory) / cfg.Workers},
	}
	c.resume.fire = (*core).retry
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

// newStream returns a stream that is not in use.
func (c *core) newStream() *stream {
	c.calls++
	st := c.free
	if st == nil {
		st = new(stream)
		st.timer.fire = st.timedOut
		return st
	}
	c.free, st.next = st.next, nil
	c.frees--
	return st
}

// maxFree, maxKept and maxKeptFields bound what is kept for other calls: streams, buffers that are not the storage's,
// and lists of fields.
const (
	maxFree       = 512
	maxKept       = 16 << 10
	maxKeptFields = 128
)

// recycle makes a stream that nothing refers to ready for another call.
func (c *core) recycle(st *stream) {
	c.calls--
	c.timers.remove(&st.timer)
	c.storage.clear(&st.body)
	for i := range st.half {
		c.storage.clear(&st.half[i].queue)
		c.forgetGrowth(&st.half[i])
	}
	c.chargeWith(st, 0)
	if c.frees == maxFree {
		return
	}
	for i := range st.half {
		st.half[i] = half{trailers: keptFields(st.half[i].trailers)}
	}
	*st = stream{half: st.half, request: keptFields(st.request), timer: st.timer, next: c.free}
	c.free = st
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
	c.wishes.wakeAt(c.timers.next())
}

// expire has what is due happen.
func (c *core) expire() {
	for {
		t := c.timers.takeDue(c.now)
		if t == nil {
			break
		}
		t.fire(c)
	}
	c.wishes.wakeAt(c.timers.next())
}

// retry picks again for the calls that wait for an endpoint.
func (c *core) retry() {
	for st := range c.waiting {
		c.blame = st.owner
		st.pick(c)
	}
}

// relieve ends what must not go on. It is called when nothing else is being done.
func (c *core) relieve() {
	for len(c.doomed) > 0 {
		last := len(c.doomed) - 1
		cn := c.doomed[last]
		c.doomed = c.doomed[:last]
		c.blame = cn
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
		for _, st := range cn.streams {
			st.fail(c, proxy.ErrDraining())
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
