package relay

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// endpointConns is the connections of all workers to an endpoint.
type endpointConns struct {
	endpoint   *picker.Endpoint
	live       *transport.Live
	pools      []*connPool  // by worker
	connectors []*connector // so, too
	waiting    atomic.Int64 // calls, for a stream
	share      *transport.Share
	dialer     *transport.Dialer

	generation   atomic.Uint64 // how often the instance has been registered anew
	pingInterval atomic.Int64  // the least that the backend puts up with, as far as it is known
	useful       atomic.Int64  // open connections that have served calls
	lastUseful   atomic.Int64  // when one of these was lost, in Unix nanoseconds

	mu     sync.Mutex     // protects:
	states []picker.State // by worker
	state  picker.State   // of all of them
}

// of is the part of a core's worker.
func (e *endpointConns) of(c *core) *connPool { return e.pools[c.index] }

// Renew implements [picker.Conn].
func (e *endpointConns) Renew() {
	e.generation.Add(1)
	for _, d := range e.connectors {
		select {
		case d.again <- struct{}{}:
		default: // it is about to
		}
	}
}

// Close implements [picker.Conn].
func (e *endpointConns) Close() {
	for _, d := range e.connectors {
		d.stop()
	}
	for _, d := range e.connectors {
		<-d.stopped
	}
	e.share.Close()
}

// serves notes the first call that is answered on a connection.
func (c *conn) serves() {
	if !c.served {
		c.served = true
		c.pool.all.useful.Add(1)
	}
}

// servesNoMore notes its end.
func (c *conn) servesNoMore() {
	if c.served {
		c.served = false
		e := c.pool.all
		e.lastUseful.Store(c.core.now.UnixNano())
		e.useful.Add(-1)
	}
}

// servedSince says whether calls have been served since then, or could be: by other workers' connections as well.
func (e *endpointConns) servedSince(t time.Time) bool {
	return e.useful.Load() > 0 || e.lastUseful.Load() >= t.UnixNano()
}

// setState tells the endpoint how it stands. It is ready as soon as every worker is connected: a call must
// not depend on which worker its caller's connection happens to belong to.
func (e *endpointConns) setState(worker int, state picker.State, cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if state == picker.Ready && e.states[worker] != picker.Ready {
		e.nudge()
	}
	e.states[worker] = state
	e.state = picker.Ready
	for _, s := range e.states {
		if s == picker.Failed || s == picker.Connecting && e.state == picker.Ready {
			e.state = s
		}
	}
	e.endpoint.SetState(e.state, cause)
}

// nudge makes workers that pause try at once: another has got a connection.
func (e *endpointConns) nudge() {
	for _, d := range e.connectors {
		select {
		case d.nudged <- struct{}{}:
		default:
		}
	}
}

// reportFailure reports a failure that does not change the state of the endpoint.
func (e *endpointConns) reportFailure(cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.endpoint.SetState(e.state, cause)
}
