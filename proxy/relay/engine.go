// Package relay is an engine that relays HTTP/2 frames: payloads, compression, user-agent, unknown fields and
// trailers pass as they are, in their order.
//
// Its core is a state machine that does no I/O and holds no lock; a shard drives it with sockets and timers.
// It decides how bytes move between a caller's stream and a backend's: windows, order, the end of either, and
// which calls can safely be sent again. Which way a call goes is package proxy's, what frames look like
// package proxy/h2's.
package relay

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/internal/logsample"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// flushTimeout is how long callers have to read the statuses of calls that a shutdown failed.
const flushTimeout = time.Second

var _ proxy.Engine = (*Engine)(nil)

// Engine implements [proxy.Engine].
type Engine struct {
	shards      []*shard
	descriptors *transport.Descriptors
	dialer      *transport.Dialer
	callers     sync.WaitGroup // their connections
	turn        atomic.Uint32  // of the shards to get a caller's connection

	mu        sync.Mutex // protects:
	listeners []net.Listener
	down      bool
}

// front is one listener's way into the policy.
type front struct {
	policy   *proxy.Policy
	listener string
	service  string // that the listener is bound to, if any
}

// New returns an engine that serves nothing yet.
func New(cfg Config, d *transport.Descriptors, m *metrics.Relay, log *zap.Logger) *Engine {
	return newEngine(cfg, d, m, log, newPoller)
}

func newEngine(
	cfg Config, d *transport.Descriptors, m *metrics.Relay, log *zap.Logger, newPoller func(*shard) (*poller, error),
) *Engine {
	e := &Engine{descriptors: d, dialer: transport.NewDialer()}
	log = log.WithOptions(logsample.First(5, time.Second)) // peers can make much of it happen without end
	for i := range cfg.Workers {
		s := newShard(cfg, i, m, log)
		s.start(newPoller)
		e.shards = append(e.shards, s)
	}
	d.OnCrowd(e.partWithIdle)
	return e
}

// Dial implements [proxy.Engine].
func (e *Engine) Dial(ep *picker.Endpoint) picker.Conn {
	d := &destination{
		endpoint: ep, states: make([]picker.State, len(e.shards)), share: e.descriptors.Share(len(e.shards)), dialer: e.dialer,
	}
	for _, s := range e.shards {
		d.upstreams = append(d.upstreams, newUpstream(s, d))
	}
	for _, u := range d.upstreams {
		go u.run() // ends by Close, which waits for it
	}
	return d
}

// Serve implements [proxy.Engine].
func (e *Engine) Serve(p *proxy.Policy, l net.Listener, service string) error {
	f := &front{policy: p, listener: l.Addr().String(), service: service}
	if !e.add(l) {
		return l.Close()
	}
	for {
		nc, err := e.descriptors.Accept(l)
		switch {
		case err == nil:
			e.accept(nc, f)
		case e.isDown():
			return nil
		default:
			return err
		}
	}
}

func (e *Engine) accept(nc net.Conn, f *front) {
	e.callers.Add(1)
	ended := func() {
		e.descriptors.CallerGone()
		e.callers.Done()
	}
	s := e.shards[e.turn.Add(1)%uint32(len(e.shards))]
	if _, err := s.attach(nc, ended, func(d driver) *conn { return s.core.newCaller(d, f) }); err != nil {
		e.descriptors.AcceptFailed(nc.LocalAddr(), err)
		ended()
	}
}

// partWithIdle asks up to n callers to leave that are idle, and returns how many there are.
func (e *Engine) partWithIdle(n int) (parted int) {
	each := (n + len(e.shards) - 1) / len(e.shards)
	e.enterAll(func(c *core) { parted += c.partWithIdle(each) })
	return parted
}

func (e *Engine) add(l net.Listener) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.down {
		e.listeners = append(e.listeners, l)
	}
	return !e.down
}

func (e *Engine) isDown() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.down
}

// Shutdown implements [proxy.Engine].
func (e *Engine) Shutdown(ctx context.Context) {
	e.mu.Lock()
	e.down = true
	for _, l := range e.listeners {
		l.Close()
	}
	e.mu.Unlock()
	e.enterAll((*core).drainAll)
	gone := make(chan struct{})
	go func() { // ends when the last caller's connection has, which is waited for below
		e.callers.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-ctx.Done():
		e.enterAll((*core).failAll)
		select {
		case <-gone:
		case <-time.After(flushTimeout):
			e.enterAll((*core).endAll)
			<-gone
		}
	}
	for _, s := range e.shards {
		s.close()
	}
}

func (e *Engine) enterAll(f func(*core)) {
	for _, s := range e.shards {
		s.enter(f)
	}
}
