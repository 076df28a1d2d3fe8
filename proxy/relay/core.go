package relay

import (
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/lbproxy/lbproxy/proxy"
)

// core is the protocol state of one shard: its connections and the calls between them. Bytes and time go in,
// bytes and wishes come out; it does no I/O itself, and whoever calls into it holds the shard's lock.
type core struct {
	wishes wishes

	dirty   []*conn // have bytes to be written
	callers map[*conn]struct{}
	free    *stream // used ones, to be used again
	timers  timers
	waiting map[*stream]struct{} // for an endpoint to connect
	acking  []*conn              // have answers to PINGs that may wait a little

	// The field block decoded last, whose fields stand here until the next.
	fields  []hpack.HeaderField
	size    uint32 // of them, as SETTINGS_MAX_HEADER_LIST_SIZE counts
	request proxy.Request
	status  []hpack.HeaderField // of the proxy's own, made last

	draining bool
}

// wishes are what the core wants of its driver.
type wishes interface {
	// wakeAt has expire called at t, or soon after. It replaces what was wished before.
	wakeAt(t time.Time)
	// wakeWhen has retry called when the channel closes.
	wakeWhen(again <-chan struct{})
	// ackSoon has flushAcks called within ackDelay.
	ackSoon()
}

func newCore(w wishes) *core {
	return &core{
		wishes:  w,
		callers: map[*conn]struct{}{},
		waiting: map[*stream]struct{}{},
	}
}

// side is one of the two ends of a call.
type side int

const (
	caller side = iota
	backend
)

func (s side) other() side { return 1 - s }

// newStream returns a stream that is not in use.
func (c *core) newStream() *stream {
	st := c.free
	if st == nil {
		return &stream{timer: -1}
	}
	c.free, st.next = st.next, nil
	return st
}

// maxKept bounds the buffers that a stream keeps from one call to the next.
const maxKept = 16 << 10

// recycle makes a stream that nothing refers to ready for another call.
func (c *core) recycle(st *stream) {
	c.timers.remove(st)
	for i := range st.half {
		h := &st.half[i]
		*h = half{queue: kept(h.queue), trailers: cleared(h.trailers)}
	}
	*st = stream{half: st.half, request: cleared(st.request), body: kept(st.body), timer: -1, next: c.free}
	c.free = st
}

func kept(b []byte) []byte {
	if cap(b) > maxKept {
		return nil
	}
	return b[:0]
}

// cleared empties fields without keeping their strings alive.
func cleared(fields []hpack.HeaderField) []hpack.HeaderField {
	clear(fields)
	return fields[:0]
}

// expire ends the waiting of the calls whose time has come.
func (c *core) expire(now time.Time) {
	for {
		st := c.timers.due(now)
		if st == nil {
			break
		}
		st.timedOut(c, now)
	}
	c.wishes.wakeAt(c.timers.next())
}

// retry picks again for the calls that wait for an endpoint.
func (c *core) retry() {
	for st := range c.waiting {
		st.pick(c)
	}
}

// flushAcks sends the answers to PINGs that have waited long enough.
func (c *core) flushAcks() {
	for _, cn := range c.acking {
		cn.flushAcks()
	}
	clear(c.acking)
	c.acking = c.acking[:0]
}

// failAll fails the calls that still run when the proxy must end, and lets their connections go.
func (c *core) failAll() {
	for cn := range c.callers {
		for _, st := range cn.streams {
			st.fail(c, proxy.ErrDraining())
		}
		cn.onPingAck(drainPing)
	}
}

// endAll ends the connections of callers that do not read.
func (c *core) endAll() {
	for cn := range c.callers {
		cn.end(errStalled)
	}
}
