package picker_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a pool with an engine that connects when it is told to.
type bench struct {
	*picker.Pool
	reg *prometheus.Registry

	mu    sync.Mutex
	conns map[string]*conn
}

type conn struct {
	endpoint         *picker.Endpoint
	renewals, closes int
	closed           chan struct{}
}

func (c *conn) Renew() { c.renewals++ }
func (c *conn) Close() { c.closes++; close(c.closed) }

func newBench(policy string) *bench {
	b := &bench{reg: prometheus.NewRegistry(), conns: map[string]*conn{}}
	b.Pool = picker.NewPool("hello", policy, func(e *picker.Endpoint) picker.Conn {
		c := &conn{endpoint: e, closed: make(chan struct{})}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.conns[e.Addr()] = c
		return c
	}, metrics.NewEndpoints(b.reg), zap.NewNop())
	return b
}

func instances(in ...discovery.Instance) discovery.Snapshot {
	return discovery.Snapshot{Service: "hello", Revision: 1, Instances: in}
}

func weights(w ...int) discovery.Snapshot {
	var s discovery.Snapshot
	for i, w := range w {
		s.Instances = append(s.Instances, discovery.Instance{Addr: addr(i), Weight: w})
	}
	return s
}

// addr is the i-th address, also by the order of addresses.
func addr(i int) string {
	return fmt.Sprintf("10.%03d.%03d.%03d:1001", i>>16, i>>8&0xff, i&0xff)
}

// connect makes every endpoint ready.
func (b *bench) connect() {
	for _, c := range b.conns {
		c.endpoint.SetState(picker.Ready, nil)
	}
}

func ready(policy string, s discovery.Snapshot) *bench {
	b := newBench(policy)
	b.Update(s)
	b.connect()
	for g := b.Current(); !g.Synced || g.Available("").Ready < g.Available("").Serving; g = b.Current() {
		<-g.Changed()
	}
	return b
}

// anybody may be picked for a call.
var anybody picker.Info

// pick picks an endpoint that may have been tried.
func (b *bench) pick(subset string) *picker.Endpoint {
	e, _ := b.Pick(&picker.Info{Subset: subset})
	return e
}

// call picks an endpoint and ends the call at once.
func (b *bench) call(t testing.TB) string {
	t.Helper()
	e, _ := b.Pick(&anybody)
	if e == nil {
		t.Fatal("nothing to pick")
	}
	e.End(picker.Result{})
	return e.Addr()
}

func (b *bench) calls(t testing.TB, n int) map[string]int {
	got := map[string]int{}
	for range n {
		got[b.call(t)]++
	}
	return got
}

// members is the status of the pool without those that have left, which close in a moment.
func (b *bench) members() []picker.EndpointStatus {
	return slices.DeleteFunc(b.Status().Instances, func(e picker.EndpointStatus) bool { return e.State == "draining" })
}
