package proxy_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc/metadata"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/transport"
	"github.com/lbproxy/lbproxy/traffic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a router whose instances and connections are the test's to command.
type bench struct {
	*proxy.Router
	services *proxy.Directory
	source   *source
	reg      *prometheus.Registry

	mu        sync.Mutex
	endpoints map[string]*picker.Endpoint
	lives     map[string]*transport.Live // what they were dialled with

	// Owned by the test, which replaces the rules:
	reloads  []*transport.Live
	onReload func() // nil for nothing more
}

const (
	idleRelease = 10 * time.Minute
	maxOnDemand = 3
)

func newBench(t testing.TB) *bench {
	b := &bench{
		source:    &source{watches: map[string]*watch{}},
		reg:       prometheus.NewRegistry(),
		endpoints: map[string]*picker.Endpoint{},
		lives:     map[string]*transport.Live{},
	}
	b.services = proxy.NewDirectory(proxy.DirectoryConfig{
		Source:      b.source,
		IdleRelease: idleRelease,
		MaxOnDemand: maxOnDemand,
		Calls:       metrics.NewCalls(b.reg),
		Endpoints:   metrics.NewEndpoints(b.reg),
		Log:         zap.NewNop(),
	})
	b.Router = proxy.NewRouter(b.services)
	b.services.Start(b, new(traffic.Rules))
	t.Cleanup(b.services.Close)
	return b
}

func (b *bench) configure(rules traffic.Rules) { b.services.Configure(&rules) }

// list has the rules list services, and nothing else.
func (b *bench) list(services map[string]traffic.Service) {
	b.configure(traffic.Rules{Services: services})
}

// Dial implements [proxy.Connector].
func (b *bench) Dial(e *picker.Endpoint, live *transport.Live) picker.Conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.endpoints[e.Addr()], b.lives[e.Addr()] = e, live
	return conn{}
}

// Reload implements [proxy.Connector].
func (b *bench) Reload(live *transport.Live) {
	b.reloads = append(b.reloads, live)
	if b.onReload != nil {
		b.onReload()
	}
}

type conn struct{}

func (conn) Renew() {}
func (conn) Close() {}

func (b *bench) connect(addrs ...string) {
	for _, addr := range addrs {
		b.endpoint(addr).SetState(picker.Ready, nil)
	}
}

func (b *bench) endpoint(addr string) *picker.Endpoint {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.endpoints[addr]
}

// call begins a call that must be routed.
func (b *bench) call(t testing.TB, r traffic.Request) *proxy.Call {
	t.Helper()
	r.Header = metadata.MD{}
	var c proxy.Call
	if err := b.Begin(&c, &r, time.Now()); err != nil {
		t.Fatal(err)
	}
	return &c
}

// attempt picks for a call that must get an endpoint.
func attempt(t testing.TB, c *proxy.Call) *proxy.Attempt {
	t.Helper()
	a, err := c.Pick(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// source publishes what the test tells it to.
type source struct {
	mu      sync.Mutex
	watches map[string]*watch
	linger  chan struct{} // see endLate
}

type watch struct {
	snapshots chan discovery.Snapshot
	taken     chan struct{} // receives after each snapshot has been published
	ended     chan struct{} // closed when Run has returned
}

var errBroken = errors.New("the source is broken")

func (s *source) Run(ctx context.Context, service string, publish func(discovery.Snapshot)) error {
	if service == "broken" {
		return errBroken
	}
	w := s.watch(service)
	defer close(w.ended)
	for {
		select {
		case <-ctx.Done():
			s.forget(service)
			return context.Cause(ctx)
		case snapshot := <-w.snapshots:
			publish(snapshot)
			w.taken <- struct{}{}
		}
	}
}

func (s *source) watch(service string) *watch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watches[service] == nil {
		s.watches[service] = &watch{make(chan discovery.Snapshot), make(chan struct{}), make(chan struct{})}
	}
	return s.watches[service]
}

func (s *source) forget(service string) {
	s.mu.Lock()
	delete(s.watches, service)
	linger := s.linger
	s.mu.Unlock()
	if linger != nil {
		<-linger
	}
}

// endLate has watches that end do so once linger is closed.
func (s *source) endLate(linger chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.linger = linger
}

// publish returns when the service's pool has taken the instances in.
func (s *source) publish(service string, instances ...discovery.Instance) {
	w := s.watch(service)
	w.snapshots <- discovery.Snapshot{Service: service, Instances: instances}
	<-w.taken
}

func instance(addr, version string) discovery.Instance {
	return discovery.Instance{Addr: addr, Version: version, Weight: 1}
}
