package relay

import (
	"context"
	"errors"
	"runtime/debug"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
	"github.com/lbproxy/lbproxy/proxy/transport"
	"github.com/lbproxy/lbproxy/traffic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a core and everything around it, without a socket or a goroutine: the test is the network, the
// clock, and both ends of every connection. The policy is the real one, over instances that the test names.
type world struct {
	t         testing.TB
	core      *core
	listener  *listener
	services  *proxy.Directory
	endpoints map[string]*picker.Endpoint
	pools     map[string]*connPool
	peers     []*peer
	registry  *prometheus.Registry

	wake     time.Time                // what the core asked for last
	awaiting map[<-chan struct{}]bool // what it waits for
	dialling map[*connPool]bool       // that one more connection is to be made for
	seen     map[*exchange]struct{}   // every exchange that ever had a connection
}

const service = "hello"

var testConfig = Config{
	Workers: 1, Memory: 256 << 20, MaxStreams: 10_000, MaxHeaderList: 1 << 20, MaxGlitches: 10_000, MaxUnread: 16 << 20,
	MaxConnections: 4, HandshakeTimeout: 10 * time.Second,
}

// newWorld returns a world whose service has instances at addrs, none of them connected.
func newWorld(t testing.TB, addrs ...string) *world {
	w := &world{
		t:         t,
		registry:  prometheus.NewRegistry(),
		endpoints: map[string]*picker.Endpoint{},
		pools:     map[string]*connPool{},
		awaiting:  map[<-chan struct{}]bool{},
		seen:      map[*exchange]struct{}{},
		dialling:  map[*connPool]bool{},
	}
	w.core = newCore(testConfig, 0, metrics.NewRelay(w.registry, 1, testConfig.Memory), w)
	w.core.setNow(time.Unix(1e9, 0))
	watchdog := time.AfterFunc(time.Minute, func() { panic("the core does not come to rest") })
	t.Cleanup(func() { watchdog.Stop() })
	known := make(chan struct{})
	w.services = proxy.NewDirectory(proxy.DirectoryConfig{
		Source:      instances{addrs, known},
		IdleRelease: time.Hour,
		MaxOnDemand: 1,
		Calls:       metrics.NewCalls(w.registry),
		Endpoints:   metrics.NewEndpoints(w.registry),
		Log:         zap.NewNop(),
	})
	t.Cleanup(func() {
		for _, p := range w.peers {
			p.c.Close(session.ErrFinished) // of a test that has failed
		}
		w.services.Close()
	})
	w.services.Start(w, rulesOf(traffic.Service{Policy: picker.WeightedRoundRobin, WaitTimeout: time.Second}))
	<-known
	w.listener = &listener{router: proxy.NewRouter(w.services), addr: "test", service: service}
	return w
}

func (w *world) configure(s traffic.Service) { w.services.Configure(rulesOf(s)) }

// rulesOf are rules that list the one service.
func rulesOf(s traffic.Service) *traffic.Rules {
	return &traffic.Rules{Services: map[string]traffic.Service{service: s}}
}

// instances is a source that publishes once.
type instances struct {
	addrs []string
	known chan struct{} // closed when they have been published
}

func (s instances) Run(ctx context.Context, service string, publish func(discovery.Snapshot)) error {
	var all []discovery.Instance
	for _, addr := range s.addrs {
		all = append(all, discovery.Instance{Addr: addr, Weight: 1})
	}
	publish(discovery.Snapshot{Service: service, Instances: all})
	close(s.known)
	<-ctx.Done()
	return context.Cause(ctx)
}

// Reload implements [proxy.Connector].
func (w *world) Reload(live *transport.Live) {
	w.core.reload(live)
	w.core.flush()
}

// Dial implements [proxy.Connector]. It makes a pool that nobody runs: the test connects it.
func (w *world) Dial(e *picker.Endpoint, live *transport.Live) picker.Conn {
	pool := newConnPool(&endpointConns{endpoint: e, live: live, share: plentyOfDescriptors.Share(1)})
	pool.grow = func() { w.dialling[pool] = true }
	pool.all.pools = []*connPool{pool}
	w.endpoints[e.Addr()], w.pools[e.Addr()] = e, pool
	return pool.all
}

// wakeAt implements host.
func (w *world) wakeAt(t time.Time) { w.wake = t }

// wakeWhen implements host.
func (w *world) wakeWhen(again <-chan struct{}) { w.awaiting[again] = true }

// connEnded implements host.
func (w *world) connEnded(*conn, error) {}

// onDefect implements host.
func (w *world) onDefect(defect any) { w.t.Fatalf("a defect: %v\n%s", defect, debug.Stack()) }

// caller connects a caller.
func (w *world) caller() *peer {
	p := newPeer(w, caller)
	p.c = w.core.newCaller(p, w.listener)
	w.peers = append(w.peers, p)
	w.core.flush()
	return p
}

// dialled connects to a backend, which has said nothing yet.
func (w *world) dialled(addr string) *peer { return w.connected(addr, false) }

func (w *world) connected(addr string, additional bool) *peer {
	p := newPeer(w, backend)
	p.c = w.pools[addr].newConn(w.core, p, newDialled(), additional)
	w.peers = append(w.peers, p)
	w.core.flush()
	return p
}

// additional connects once more to a backend, as the core asks.
func (w *world) additional(addr string, settings ...setting) *peer {
	w.t.Helper()
	pool := w.pools[addr]
	if !w.dialling[pool] {
		w.t.Fatalf("no other connection to %s is wished for", addr)
	}
	delete(w.dialling, pool)
	p := w.connected(addr, true)
	p.settings(settings...)
	return p
}

// unreachable fails the additional connection that the core asks for.
func (w *world) unreachable(addr string) {
	pool := w.pools[addr]
	delete(w.dialling, pool)
	pool.growFailed(w.core)
	w.step()
}

// backend connects to a backend that takes calls.
func (w *world) backend(addr string, settings ...setting) *peer {
	p := w.dialled(addr)
	p.settings(settings...)
	w.endpoints[addr].SetState(picker.Ready, nil)
	w.step()
	return p
}

// disconnected does what connector.run does when a connection takes no more calls.
func (w *world) disconnected(addr string) {
	pool := w.pools[addr]
	w.endpoints[addr].SetState(picker.Connecting, errors.New("test"))
	pool.repick(w.core)
	w.step()
}

// first is the first connection to a backend that takes calls; nil if there is none.
func (w *world) first(addr string) *conn {
	if conns := w.pools[addr].conns; len(conns) > 0 {
		return conns[0]
	}
	return nil
}

// metric is the value of a counter or gauge, summed over the series that have the labels: names and values in
// turn.
func (w *world) metric(name string, labels ...string) (sum float64) {
	w.t.Helper()
	return metricOf(w.t, w.registry, name, labels...)
}

func metricOf(t testing.TB, from prometheus.Gatherer, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			has := map[string]string{}
			for _, l := range m.Label {
				has[l.GetName()] = l.GetValue()
			}
			matches := true
			for i := 0; i < len(labels); i += 2 {
				matches = matches && has[labels[i]] == labels[i+1]
			}
			if matches {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// step does all that a driver would do at once, and checks that the state is sound.
func (w *world) step() {
	w.t.Helper()
	w.settle()
	w.check()
}

func (w *world) settle() {
	for {
		w.core.settle()
		w.core.flush()
		woken := false
		for again := range w.awaiting {
			select {
			case <-again:
				delete(w.awaiting, again)
				woken = true
			default:
			}
		}
		if !woken {
			return
		}
		w.core.repickWaiting()
	}
}

// pass lets time pass.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	w.core.setNow(w.core.now.Add(d))
	w.core.expire()
	w.step()
}

// acks lets the time pass that answers to PINGs may wait.
func (w *world) acks() {
	w.t.Helper()
	w.pass(ackDelay[backend])
}

// finish closes what is still open, and checks that nothing is left.
func (w *world) finish() {
	w.t.Helper()
	for _, p := range w.peers {
		p.resume()
	}
	w.step()
	for _, p := range w.peers {
		p.c.Close(errors.New("the test ends"))
	}
	w.step()
	w.checkEmpty()
}

// ended is how many connections of a side have ended for a cause.
func (w *world) ended(s side, cause string) int {
	w.t.Helper()
	return int(w.metric("lbproxy_connections_ended_total", "peer", s.String(), "cause", cause))
}
