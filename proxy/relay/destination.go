package relay

import (
	"sync"
	"sync/atomic"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// destination is the connections of all workers to an endpoint.
type destination struct {
	endpoint  *picker.Endpoint
	upstreams []*upstream  // by worker
	waiting   atomic.Int64 // calls, for a stream
	share     *transport.Share

	mu     sync.Mutex     // protects:
	states []picker.State // by worker
}

// of is the part of a core's worker.
func (d *destination) of(c *core) *upstream { return d.upstreams[c.index] }

// Renew implements [picker.Conn].
func (d *destination) Renew() {
	for _, u := range d.upstreams {
		u.reset()
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

// setState tells the endpoint how it stands. It is ready as soon as every worker is connected: a call must
// not depend on which worker its caller's connection happens to belong to.
func (d *destination) setState(worker int, state picker.State, cause error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.states[worker] = state
	all := picker.Ready
	for _, s := range d.states {
		if s == picker.Failed || s == picker.Connecting && all == picker.Ready {
			all = s
		}
	}
	d.endpoint.SetState(all, cause)
}
