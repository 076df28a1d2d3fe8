package picker

import (
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/metrics"
)

// An Endpoint is an instance and its live state in this proxy. It is one process at one address: it stays the
// same Endpoint while its weight or version changes, and while it leaves and comes back with calls running.
type Endpoint struct {
	// Immutable:
	pool    *Pool
	addr    string
	metrics *metrics.Endpoint

	refs    *refs
	calls   atomic.Uint64
	failure atomic.Pointer[failure] // the last; nil if there was none. SetState stores it

	// Protected by pool.mu; whoever has picked the endpoint may read conn without:
	conn         Conn // nil until it is dialled, and set once
	instance     discovery.Instance
	newest       int64 // when the newest registration began that the connection is for
	leaving      bool  // no longer a member, while calls still run
	connectivity connectivity
}

// Addr is the address to dial.
func (e *Endpoint) Addr() string { return e.addr }

// Conn is what the engine's Dial returned for this endpoint.
func (e *Endpoint) Conn() Conn { return e.conn }

// acquire makes the endpoint usable for one call, until End or Return. It fails if the endpoint has closed
// since it was picked.
func (e *Endpoint) acquire() bool {
	if !e.refs.add(call) {
		return false
	}
	e.calls.Add(1)
	e.metrics.CallStarted()
	return true
}

// Result is what became of a call at an endpoint.
type Result struct {
	Code  codes.Code    // the caller's
	Began time.Time     // when it was sent there
	Took  time.Duration // from then on
}

// End ends a call that was sent to the endpoint.
func (e *Endpoint) End(r Result) {
	e.metrics.CallEnded(r.Code, r.Took, r.Began.Add(r.Took))
	e.release(call)
}

// Return gives up a call that never reached the endpoint.
func (e *Endpoint) Return() {
	e.calls.Add(^uint64(0))
	e.metrics.CallReturned()
	e.release(call)
}

// CallQueued counts a call that waits for a stream on a connection to the endpoint, until CallUnqueued.
func (e *Endpoint) CallQueued() { e.metrics.CallQueued() }

// CallUnqueued takes back a CallQueued.
func (e *Endpoint) CallUnqueued() { e.metrics.CallUnqueued() }

// reregister applies what is registered now, and reports whether that changes what can be picked.
func (e *Endpoint) reregister(in discovery.Instance) (changed bool) {
	if e.registeredAnew(in) {
		e.newest = in.Registered
		e.conn.Renew()
	}
	changed = e.instance.Weight != in.Weight || e.instance.Version != in.Version
	e.instance = in
	e.metrics.SetWeight(in.Weight)
	return changed
}

// registeredAnew reports whether in is another registration than those that the endpoint is connected for. Of several
// keys of one address, now one may count and now another; only one that began later is another registration.
func (e *Endpoint) registeredAnew(in discovery.Instance) bool {
	if in.Key == e.instance.Key {
		return in.Registered != e.instance.Registered
	}
	return in.Registered > e.newest
}

func (e *Endpoint) release(n int64) {
	if e.refs.remove(n) {
		e.pool.close(e)
	}
}
