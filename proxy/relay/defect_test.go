package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// served is an engine of one worker behind real sockets. Its service has an instance that never connects.
type served struct {
	t        *testing.T
	world    *world // for its router
	engine   *Engine
	registry *prometheus.Registry
	logs     *observer.ObservedLogs
}

func newServed(t *testing.T) *served {
	s := &served{t: t, world: newWorld(t, "a:1"), registry: prometheus.NewRegistry()}
	level, logs := observer.New(zap.ErrorLevel)
	s.logs = logs
	m := metrics.NewRelay(s.registry, testConfig.Workers, testConfig.Memory)
	s.engine = New(testConfig, nil, transport.NewDialer(), plentyOfDescriptors, m, zap.New(level))
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.engine.Shutdown(ctx)
	})
	return s
}

func (s *served) worker() *worker { return s.engine.workers[0] }

// remote is a caller's end of a real connection.
type remote struct {
	t    *testing.T
	nc   net.Conn
	fr   *http2.Framer
	enc  *peer // encodes field blocks
	conn *conn // the engine's end
	next uint32
}

// connect listens for one caller, and connects it. A nil router is a defect in every call.
func (s *served) connect(router *proxy.Router) *remote {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.engine.router = router
	go s.engine.Serve(proxy.Listener{Listener: l, Service: service}) // ends by Shutdown
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(10 * time.Second)) // of a test that fails
	r := &remote{t: s.t, nc: nc, fr: http2.NewFramer(nc, nc), enc: newPeer(s.world, caller), next: 1}
	io.WriteString(nc, h2.ClientPreface)
	r.fr.WriteSettings()
	r.await(http2.FrameSettings)
	s.worker().mu.Lock()
	defer s.worker().mu.Unlock()
	for c := range s.worker().core.callers() {
		if c.listener.addr == l.Addr().String() {
			r.conn = c
		}
	}
	return r
}

// await reads until a frame of a type comes.
func (r *remote) await(what http2.FrameType) {
	r.t.Helper()
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			r.t.Fatalf("waiting for %v: %v", what, err)
		}
		if f.Header().Type == what {
			return
		}
	}
}

// awaitEnd reads until the connection has ended.
func (r *remote) awaitEnd() {
	r.t.Helper()
	for {
		if _, err := r.fr.ReadFrame(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			r.t.Fatalf("waiting for the connection's end: %v", err)
		}
	}
}

func (r *remote) request(more ...string) {
	r.fr.WriteHeaders(http2.HeadersFrameParam{
		StreamID: r.next, BlockFragment: r.enc.block(append(requestFields[:len(requestFields):len(requestFields)], more...)),
		EndHeaders: true, EndStream: true,
	})
	r.next += 2
}

// unharmed fails the test if calls of a caller are not answered.
func (r *remote) unharmed() {
	r.t.Helper()
	r.request("grpc-timeout", "1m")
	r.await(http2.FrameHeaders)
}

// wantDefects fails the test if not so many defects have been counted and logged, or the connections of others
// have ended than those of so many callers.
func (s *served) wantDefects(defects, ended int) {
	s.t.Helper()
	if got := int(metricOf(s.t, s.registry, "lbproxy_defects_total")); got != defects {
		s.t.Errorf("%d defects are counted, want %d", got, defects)
	}
	logged := s.logs.TakeAll()
	for _, entry := range logged {
		if stack, ok := entry.ContextMap()["stack"].(string); !ok || stack == "" {
			s.t.Errorf("a defect is logged without its stack: %v", entry)
		}
	}
	if len(logged) != defects {
		s.t.Errorf("%d defects are logged, want %d", len(logged), defects)
	}
	all := int(metricOf(s.t, s.registry, "lbproxy_connections_ended_total"))
	of := int(metricOf(s.t, s.registry, "lbproxy_connections_ended_total", "peer", "caller", "cause", "defect"))
	if all != ended || of != ended {
		s.t.Errorf("%d connections have ended, %d of defects, want %d", all, of, ended)
	}
}

func TestDefectInACall(t *testing.T) {
	s := newServed(t)
	good, bad := s.connect(s.world.listener.router), s.connect(nil)
	good.unharmed()
	bad.request()
	bad.awaitEnd()
	good.unharmed()
	s.wantDefects(1, 1)
}

// What the defect has left of a call may be in no state to be ended in order.
func TestDefectInATimer(t *testing.T) {
	s := newServed(t)
	good, bad := s.connect(s.world.listener.router), s.connect(s.world.listener.router)
	bad.request()
	bad.fr.WritePing(false, [8]byte{})
	bad.await(http2.FramePing)
	var call proxy.Call
	s.worker().run(func(c *core) {
		x := callOf(bad.conn, 1)
		call, x.call = x.call, proxy.Call{} // which panics
		c.timers.set(&x.timer, c.now)
	})
	defer call.Cancel(time.Now())
	s.worker().expire()
	bad.awaitEnd()
	good.unharmed()
	s.wantDefects(1, 1)
}

func TestDefectWhileWriting(t *testing.T) {
	s := newServed(t)
	good, bad := s.connect(s.world.listener.router), s.connect(s.world.listener.router)
	bad.request()
	bad.request()
	bad.fr.WritePing(false, [8]byte{})
	bad.await(http2.FramePing)
	s.worker().run(func(*core) {
		long, ends := callOf(bad.conn, 1), callOf(bad.conn, 3)
		long.caller.Headers([]hpack.Field{{Name: "x", Value: strings.Repeat("x", 2*highWater)}}, false)
		ends.caller.Queue(nil, true)
		ends.caller.Push()
		ends.owner = nil // to be ended once there is room, which panics
	})
	bad.awaitEnd()
	good.unharmed()
	s.wantDefects(1, 1)
}

func TestDefectThatNobodyIsBlamedFor(t *testing.T) {
	s := newServed(t)
	good := s.connect(s.world.listener.router)
	s.worker().run(func(c *core) {
		c.timers.set(&timer{fire: func(*core) { panic("made by the test") }}, c.now)
	})
	s.worker().expire()
	good.unharmed()
	s.wantDefects(1, 0)
}

// Other timers, which were due or are to be, fire all the same.
func TestDefectDoesNotStopTime(t *testing.T) {
	s := newServed(t)
	fired := make(chan struct{})
	s.worker().run(func(c *core) {
		c.timers.set(&timer{fire: func(*core) { panic("made by the test") }}, c.now)
		c.timers.set(&timer{fire: func(*core) { close(fired) }}, c.now.Add(time.Millisecond))
	})
	s.worker().expire()
	select {
	case <-fired:
	case <-time.After(5 * time.Second):
		t.Error("no timer fires after a defect in one")
	}
	s.wantDefects(1, 0)
}
