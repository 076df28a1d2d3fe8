// Package relay is an engine that relays HTTP/2 frames: payloads, compression, user-agent, unknown fields and
// trailers pass as they are, in their order.
//
// It decides what a call is: an exchange of a caller's stream and attempts at backends, which connections they are made
// on, what they may hold, and which of them can safely be sent again. Its core does no I/O and holds no lock; a worker
// drives it with sockets (package netpoll) and timers. Which way a call goes is package proxy's, what a connection is
// package session's, what frames look like package h2's.
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
	"github.com/lbproxy/lbproxy/proxy/relay/netpoll"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// flushTimeout is how long callers have to read the statuses of calls that a shutdown failed.
const flushTimeout = time.Second

var _ proxy.Engine = (*Engine)(nil)

// Engine implements [proxy.Engine].
type Engine struct {
	router      *proxy.Router
	workers     []*worker
	dialer      *transport.Dialer
	descriptors *transport.Descriptors
	callers     sync.WaitGroup // their connections
	turn        atomic.Uint32  // of the workers to get a caller's connection

	mu        sync.Mutex // protects:
	listeners []net.Listener
	down      bool
}

// listener is where callers come from, and the router of their calls.
type listener struct {
	router  *proxy.Router
	addr    string
	service string // that the listener is bound to, if any
}

// New returns an engine that serves nothing yet.
func New(
	cfg Config, r *proxy.Router, dialer *transport.Dialer, d *transport.Descriptors, m *metrics.Relay, log *zap.Logger,
) *Engine {
	return newEngine(cfg, r, dialer, d, m, log, netpoll.NewPoller)
}

func newEngine(
	cfg Config, r *proxy.Router, dialer *transport.Dialer, d *transport.Descriptors, m *metrics.Relay, log *zap.Logger,
	newPoller newPoller,
) *Engine {
	e := &Engine{router: r, dialer: dialer, descriptors: d}
	log = log.WithOptions(logsample.First(5, time.Second)) // peers can make much of it happen without end
	for i := range cfg.Workers {
		w := newWorker(cfg, i, m, log)
		w.start(newPoller)
		e.workers = append(e.workers, w)
	}
	d.OnCrowd(e.drainIdle)
	return e
}

// Dial implements [proxy.Engine].
func (e *Engine) Dial(ep *picker.Endpoint, live *transport.Live) picker.Conn {
	all := &endpointConns{
		endpoint: ep, live: live, states: make([]picker.State, len(e.workers)), share: e.descriptors.Share(len(e.workers)), dialer: e.dialer,
	}
	for _, w := range e.workers {
		p := newConnPool(all)
		all.pools = append(all.pools, p)
		all.connectors = append(all.connectors, newConnector(w, p))
	}
	for _, d := range all.connectors {
		go d.run() // ends by Close, which waits for it
	}
	return all
}

// Reload implements [proxy.Engine].
func (e *Engine) Reload(live *transport.Live) {
	e.runAll(func(c *core) { c.reload(live) })
}

// Serve implements [proxy.Engine].
func (e *Engine) Serve(l proxy.Listener) error {
	from := &listener{router: e.router, addr: l.Addr().String(), service: l.Service}
	if !e.add(l) {
		return l.Close()
	}
	for {
		nc, err := e.descriptors.Accept(l)
		switch {
		case err == nil:
			e.accept(nc, from)
		case e.isDown():
			return nil
		default:
			return err
		}
	}
}

func (e *Engine) accept(nc net.Conn, l *listener) {
	e.callers.Add(1)
	ended := func() {
		e.descriptors.CallerGone()
		e.callers.Done()
	}
	w := e.workers[e.turn.Add(1)%uint32(len(e.workers))]
	if _, err := w.attach(nc, ended, func(d netpoll.Driver) *conn { return w.core.newCaller(d, l) }); err != nil {
		e.descriptors.AcceptFailed(nc.LocalAddr(), err)
		ended()
	}
}

// drainIdle asks up to n callers to leave that are idle, and returns how many there are.
func (e *Engine) drainIdle(n int) (parted int) {
	each := (n + len(e.workers) - 1) / len(e.workers)
	e.runAll(func(c *core) { parted += c.drainIdle(each) })
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
	e.runAll((*core).drainAll)
	gone := make(chan struct{})
	go func() { // ends when the last caller's connection has, which is waited for below
		e.callers.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-ctx.Done():
		e.runAll((*core).failAll)
		select {
		case <-gone:
		case <-time.After(flushTimeout):
			e.runAll((*core).endAll)
			<-gone
		}
	}
	for _, w := range e.workers {
		w.close()
	}
}

func (e *Engine) runAll(f func(*core)) {
	for _, w := range e.workers {
		w.run(f)
	}
}
