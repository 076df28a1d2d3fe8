package relay

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2"
)

// upstream is the connection to an endpoint: one at a time takes calls, and those before it that were told to
// go away live as long as their last call.
type upstream struct {
	// Immutable:
	endpoint *picker.Endpoint
	shard    *shard
	stop     context.CancelFunc
	stopped  chan struct{} // closed when run has returned
	again    chan struct{} // receives when it is worth trying again at once

	// The shard's lock protects:
	conn  *conn     // that takes calls; nil if there is none
	queue []*stream // wait until it takes one more, or until the policy knows that there is none
}

// link is what run waits for on a connection.
type link struct {
	ready chan struct{} // closed when it takes calls
	over  chan struct{} // closed when it takes none any more
	err   error         // why; written before over is closed
}

var (
	errGoAway    = errors.New("the backend has sent GOAWAY")
	errHandshake = errors.New("TCP connects but HTTP/2 does not; check that a gRPC server without TLS listens there")
)

func newUpstream(s *shard, e *picker.Endpoint) *upstream {
	ctx, stop := context.WithCancel(context.Background())
	u := &upstream{
		endpoint: e, shard: s, stop: stop, stopped: make(chan struct{}), again: make(chan struct{}, 1),
	}
	go u.run(ctx) // ends by Close, which waits for it
	return u
}

// Reset implements [picker.Conn].
func (u *upstream) Reset() {
	select {
	case u.again <- struct{}{}:
	default: // it is about to try
	}
}

// Close implements [picker.Conn].
func (u *upstream) Close() {
	u.stop()
	<-u.stopped
}

// run keeps the endpoint connected and tells it how it stands.
func (u *upstream) run(ctx context.Context) {
	defer close(u.stopped)
	retry := &backoff.ExponentialBackOff{
		InitialInterval: proxy.ConnectBackoffMin, MaxInterval: proxy.ConnectBackoffMax, Multiplier: 1.6, RandomizationFactor: 0.2,
	}
	for {
		worked, err := u.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if worked {
			retry.Reset()
			u.endpoint.SetState(picker.Connecting, err)
			u.shard.enter(u.repick)
			continue
		}
		u.endpoint.SetState(picker.Failed, err)
		u.shard.enter(u.repick)
		select {
		case <-time.After(retry.NextBackOff()):
		case <-u.again:
			retry.Reset()
		case <-ctx.Done():
			return
		}
	}
}

// connect makes a connection and stays with it until it takes no more calls. It tells whether it ever did.
func (u *upstream) connect(ctx context.Context) (worked bool, err error) {
	nc, err := proxy.BackendDialer().DialContext(ctx, "tcp", u.endpoint.Addr())
	if err != nil {
		return false, err
	}
	c := u.shard.attach(nc, func(t transport) *conn {
		c := u.shard.core.newConn(backend, t)
		c.upstream, c.link = u, &link{ready: make(chan struct{}), over: make(chan struct{})}
		return c
	})
	handshake := time.NewTimer(proxy.ConnectTimeout)
	defer handshake.Stop()
	select {
	case <-c.link.ready:
	case <-c.link.over:
		return false, errHandshake
	case <-handshake.C:
		u.shard.enter(func(*core) { c.end(errHandshake) })
		return false, errHandshake
	case <-ctx.Done():
		u.shard.enter(func(*core) { c.end(errFinished) })
		return false, ctx.Err()
	}
	u.endpoint.SetState(picker.Ready, nil)
	select {
	case <-c.link.over:
		return true, c.link.err
	case <-ctx.Done():
		u.shard.enter(func(*core) { c.end(errFinished) })
		return true, ctx.Err()
	}
}

// greeted is called when the backend's SETTINGS have come: only now is it known how many streams it takes.
func (u *upstream) greeted(c *conn) {
	u.conn = c
	close(c.link.ready)
	for _, st := range u.queue {
		st.stopWaiting(c.core)
	}
	u.admit()
}

// lost is called when a connection has ended.
func (u *upstream) lost(c *conn, err error) { u.over(c, err) }

// goingAway is called when the backend wants no more streams on a connection.
func (u *upstream) goingAway(c *conn) { u.over(c, errGoAway) }

func (u *upstream) over(c *conn, err error) {
	if c.link.err != nil {
		return
	}
	c.link.err = err
	close(c.link.over)
	if u.conn != c {
		return
	}
	u.conn = nil
	u.repick(c.core)
}

// repick gives the calls that wait to whom the policy chooses now.
func (u *upstream) repick(c *core) {
	queue := u.queue
	u.queue = nil
	for _, st := range queue {
		st.queued = false
		st.call.Unpick()
		st.pick(c)
	}
}

// take opens a call on the connection, or has it wait until the backend takes one more. If the connection has
// ended between the policy's last look and ours, the call waits for what comes first: run tells the policy, and
// has it picked again, or there is a new connection.
func (u *upstream) take(c *core, st *stream) {
	if u.conn == nil {
		st.startWaiting(c)
	} else {
		st.stopWaiting(c)
		if len(u.queue) == 0 && u.conn.hasRoom() {
			st.open(u.conn)
			return
		}
	}
	u.queue = append(u.queue, st)
	st.queued = true
}

// admit opens the calls that wait for as long as there is room.
func (u *upstream) admit() {
	for u.conn != nil && len(u.queue) > 0 && u.conn.hasRoom() {
		st := u.queue[0]
		u.queue = u.queue[1:]
		st.queued = false
		st.open(u.conn)
	}
}

func (u *upstream) unqueue(st *stream) {
	if i := slices.Index(u.queue, st); i >= 0 {
		u.queue = slices.Delete(u.queue, i, i+1)
	}
	st.queued = false
}

// hasRoom says whether a stream can be opened.
func (c *conn) hasRoom() bool {
	return !c.dead && !c.leaving && uint32(len(c.streams)) < c.peer.MaxConcurrentStreams && c.nextID < h2.MaxStreamID-2
}
