package relay

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// destination is the connections of all workers to an endpoint.
type destination struct {
	endpoint  *picker.Endpoint
	upstreams []*upstream  // by worker
	waiting   atomic.Int64 // calls, for a stream
	share     *transport.Share
	dialer    *transport.Dialer

	generation   atomic.Uint64 // how often the instance has been registered anew
	pingInterval atomic.Int64  // the least that the backend puts up with, as far as it is known
	useful       atomic.Int64  // open connections that have served calls
	lastUseful   atomic.Int64  // when one of these was lost, in Unix nanoseconds

	mu     sync.Mutex     // protects:
	states []picker.State // by worker
	state  picker.State   // of all of them
}

// of is the part of a core's worker.
func (d *destination) of(c *core) *upstream { return d.upstreams[c.index] }

// Renew implements [picker.Conn].
func (d *destination) Renew() {
	d.generation.Add(1)
	for _, u := range d.upstreams {
		select {
		case u.again <- struct{}{}:
		default: // it is about to
		}
	}
}

// Close implements [picker.Conn].
func (d *destination) Close() {
	for _, u := range d.upstreams {
		u.stop()
	}
	for _, u := range d.upstreams {
		<-u.stopped
	}
	d.share.Close()
}

// serves notes the first call that is answered on a connection.
func (c *conn) serves() {
	if !c.served {
		c.served = true
		c.upstream.destination.useful.Add(1)
	}
}

// servesNoMore notes its end.
func (c *conn) servesNoMore() {
	if c.served {
		c.served = false
		d := c.upstream.destination
		d.lastUseful.Store(time.Now().UnixNano())
		d.useful.Add(-1)
	}
}

// servedSince says whether calls have been served since then, or could be: by other workers' connections as well.
func (d *destination) servedSince(t time.Time) bool {
	return d.useful.Load() > 0 || d.lastUseful.Load() >= t.UnixNano()
}

// setState tells the endpoint how it stands. It is ready as soon as every worker is connected: a call must
// not depend on which worker its caller's connection happens to belong to.
func (d *destination) setState(worker int, state picker.State, cause error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if state == picker.Ready && d.states[worker] != picker.Ready {
		d.nudge()
	}
	d.states[worker] = state
	d.state = picker.Ready
	for _, s := range d.states {
		if s == picker.Failed || s == picker.Connecting && d.state == picker.Ready {
			d.state = s
		}
	}
	d.endpoint.SetState(d.state, cause)
}

// nudge has workers try at once that pause: another has got a connection.
func (d *destination) nudge() {
	for _, u := range d.upstreams {
		select {
		case u.nudged <- struct{}{}:
		default:
		}
	}
}

// tell tells of what has failed and does not change how the endpoint stands.
func (d *destination) tell(cause error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.endpoint.SetState(d.state, cause)
}
