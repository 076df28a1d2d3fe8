package picker_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"

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

func TestOnlyConnectedEndpointsArePicked(t *testing.T) {
	b := newBench(picker.WeightedRoundRobin)
	if g := b.Current(); g.Synced || g.Known || b.pick("") != nil {
		t.Errorf("a new pool is not empty: %+v", g)
	}
	b.Update(weights(1, 1))
	if g := b.Current(); !g.Synced || !g.Known || b.pick("") != nil {
		t.Errorf("nothing is connected, and yet %+v", g)
	}
	changed := b.Current().Changed()
	b.conns[addr(1)].endpoint.SetState(picker.Ready, nil)
	select {
	case <-changed:
	default:
		t.Error("a waiting call was not told of the ready endpoint")
	}
	if got, want := b.calls(t, 10), map[string]int{addr(1): 10}; !cmp.Equal(got, want) {
		t.Errorf("calls = %v, want %v", got, want)
	}
	b.conns[addr(1)].endpoint.SetState(picker.Failed, errors.New("refused"))
	if b.pick("") != nil {
		t.Error("picked an endpoint that has failed")
	}
	if got, want := b.Current().Available(""), (picker.Availability{
		Instances: 2, Serving: 2,
	}); got != want {
		t.Errorf("available = %+v, want %+v", got, want)
	}
	b.Close()
}

func TestAnEngineMayBeReadyBeforeDialReturns(t *testing.T) {
	dial := func(e *picker.Endpoint) picker.Conn {
		e.SetState(picker.Ready, nil)
		return nothing{}
	}
	pool := picker.NewPool("hello", picker.RoundRobin, dial, metrics.NewEndpoints(prometheus.NewRegistry()), zap.NewNop())
	defer pool.Close()
	pool.Update(weights(1))
	e, _ := pool.Pick(&anybody)
	if e == nil {
		t.Fatal("nothing to pick")
	}
	defer e.Return()
	if e.Conn() != (nothing{}) {
		t.Errorf("picked with the connection %v", e.Conn())
	}
}

// Waiting calls are woken for what they may pick, not for whatever becomes of what they cannot.
func TestOnlyWhatMattersToPicksMakesAGeneration(t *testing.T) {
	b := ready(picker.RoundRobin, weights(1, 0, 1))
	defer b.Close()
	g := b.Current()
	b.endpoint(1).SetState(picker.Failed, errors.New("refused"))
	b.endpoint(0).SetState(picker.Ready, errors.New("refused"))
	if b.Current() != g {
		t.Error("there is another generation, and nothing has changed for picks")
	}
	b.endpoint(0).SetState(picker.Connecting, errors.New("lost"))
	if b.Current() == g {
		t.Error("there is no other generation, and an endpoint is lost")
	}
}

func TestWeightZeroGetsNoNewCallsAndKeepsItsConnection(t *testing.T) {
	b := ready(picker.LeastRequest, weights(1, 1))
	b.Update(weights(1, 0))
	if got, want := b.calls(t, 20), map[string]int{addr(0): 20}; !cmp.Equal(got, want) {
		t.Errorf("calls = %v, want %v", got, want)
	}
	b.Update(weights(0, 0))
	if b.pick("") != nil {
		t.Error("picked an endpoint of weight 0")
	}
	got := b.Current().Available("")
	if want := (picker.Availability{Instances: 2, ServedUntil: got.ServedUntil}); got != want || got.ServedUntil.IsZero() {
		t.Errorf("available = %+v, want %+v until now", got, want)
	}
	b.Update(weights(1, 1))
	if got := b.calls(t, 20); len(got) != 2 || b.conns[addr(1)].closes != 0 {
		t.Errorf("calls = %v after %d closes, want both endpoints on their old connections", got, b.conns[addr(1)].closes)
	}
	b.Close()
}

func TestVersionLimitsThePick(t *testing.T) {
	b := ready(picker.WeightedRoundRobin, instances(
		discovery.Instance{Addr: addr(0), Version: "1.0.0", Weight: 1},
		discovery.Instance{Addr: addr(1), Version: "2.0.0", Weight: 5},
		discovery.Instance{Addr: addr(2), Version: "2.0.0", Weight: 0},
	))
	for version, want := range map[string]picker.Availability{
		"":      {Instances: 3, Serving: 2, Ready: 2},
		"1.0.0": {Instances: 1, Serving: 1, Ready: 1},
		"2.0.0": {Instances: 2, Serving: 1, Ready: 1},
		"3.0.0": {},
	} {
		if got := b.Current().Available(version); got != want {
			t.Errorf("version %q: available = %+v, want %+v", version, got, want)
		}
	}
	for range 10 {
		e := b.pick("1.0.0")
		if e.Addr() != addr(0) {
			t.Fatalf("picked %s for version 1.0.0", e.Addr())
		}
		e.End(picker.Result{})
	}
	if b.pick("3.0.0") != nil {
		t.Error("picked an endpoint of another version")
	}
	b.Close()
}

func TestAnEndpointThatLeavesFinishesItsCalls(t *testing.T) {
	b := ready(picker.WeightedRoundRobin, weights(1))
	e := b.pick("")
	b.Update(weights())
	if b.pick("") != nil {
		t.Error("picked an endpoint that has left")
	}
	if got := b.Status().Instances; len(got) != 1 || got[0].State != "draining" || got[0].InFlight != 1 {
		t.Errorf("status = %+v, want one draining endpoint with a call", got)
	}
	c := b.conns[addr(0)]
	if c.closes != 0 {
		t.Fatal("closed with a call running")
	}
	e.End(picker.Result{})
	<-c.closed
	b.Close()
	if got := b.Status().Instances; len(got) != 0 {
		t.Errorf("status = %+v, want none", got)
	}
	if n, err := testutil.GatherAndCount(b.reg, "lbproxy_endpoint_weight", "lbproxy_endpoint_ready",
		"lbproxy_endpoint_in_flight", "lbproxy_endpoint_calls_total"); n != 0 || err != nil {
		t.Errorf("%d series left (%v), want 0", n, err)
	}
}

func TestAnEndpointThatComesBackWhileItDrainsWasNeverAway(t *testing.T) {
	b := ready(picker.WeightedRoundRobin, instances(discovery.Instance{Addr: addr(0), Weight: 1, Registered: 1}))
	e := b.pick("")
	b.Update(instances())
	b.Update(instances(discovery.Instance{Addr: addr(0), Weight: 1, Registered: 2}))
	c := b.conns[addr(0)]
	if got := b.pick(""); got != e || c.closes != 0 {
		t.Errorf("picked %v after %d closes, want the same endpoint on its old connection", got, c.closes)
	} else {
		got.End(picker.Result{})
	}
	if c.renewals != 1 {
		t.Errorf("%d renewals for a new registration, want 1", c.renewals)
	}
	e.End(picker.Result{})
	if c.closes != 0 {
		t.Error("closed a member at the end of a call")
	}
	b.Close()
	if c.closes != 1 {
		t.Errorf("%d closes, want 1", c.closes)
	}
}

func TestAnEndpointThatComesBackAfterItClosedIsNew(t *testing.T) {
	b := ready(picker.WeightedRoundRobin, weights(1))
	first := b.conns[addr(0)]
	b.Update(weights())
	b.Update(weights(1))
	<-first.closed
	if second := b.conns[addr(0)]; second == first {
		t.Error("the closed connection is used again")
	}
	b.connect()
	b.call(t)
	if n, err := testutil.GatherAndCount(b.reg, "lbproxy_endpoint_calls_total"); n != 1 || err != nil {
		t.Errorf("%d series of the new endpoint (%v), want 1", n, err)
	}
	b.Close()
}

func TestAReturnedCallIsNotCounted(t *testing.T) {
	b := ready(picker.WeightedRoundRobin, weights(1))
	b.pick("").Return()
	if got := b.Status().Instances[0]; got.Calls != 0 || got.InFlight != 0 {
		t.Errorf("calls = %d, in flight = %d, want 0", got.Calls, got.InFlight)
	}
	b.Close()
}

func TestStatusTellsTheLastError(t *testing.T) {
	b := ready(picker.RoundRobin, weights(7))
	b.conns[addr(0)].endpoint.SetState(picker.Failed, errors.New("connection refused"))
	b.conns[addr(0)].endpoint.SetState(picker.Ready, nil)
	got := b.Status()
	want := picker.Status{Policy: "round_robin", Synced: true, Instances: []picker.EndpointStatus{{
		Addr: addr(0), Weight: 7, State: "ready", Since: got.Instances[0].Since,
		LastError: "connection refused", LastErrorAt: got.Instances[0].LastErrorAt,
	}}}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("status (-got +want):\n%s", diff)
	}
	if at := got.Instances[0].LastErrorAt; at.IsZero() || at.After(got.Instances[0].Since) {
		t.Errorf("the error is of %v, want a time before it was ready, %v", at, got.Instances[0].Since)
	}
	b.Close()
}

func TestStatusTellsWhatBecameOfCalls(t *testing.T) {
	b := ready(picker.RoundRobin, weights(1, 1, 1))
	good, bad, unused := b.pick(""), b.pick(""), b.pick("")
	good.End(picker.Result{Code: codes.OK, Began: time.Now().Add(-10 * time.Millisecond), Took: 10 * time.Millisecond})
	bad.End(picker.Result{Code: codes.Unavailable, Began: time.Now().Add(-time.Second), Took: time.Second})
	unused.Return()
	for _, in := range b.Status().Instances {
		switch in.Addr {
		case good.Addr():
			if in.Recent == nil || in.Recent.ErrorShare != 0 || in.Recent.P99Seconds > 0.02 {
				t.Errorf("of a call that went well: %+v", in.Recent)
			}
		case bad.Addr():
			if in.Recent == nil || in.Recent.ErrorShare != 1 || in.Recent.P99Seconds < 0.8 {
				t.Errorf("of a call that failed after a second: %+v", in.Recent)
			}
		case unused.Addr():
			if in.Recent != nil {
				t.Errorf("without a call: %+v", in.Recent)
			}
		}
	}
	b.Close()
}

func TestLastErrorsAreTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(picker.RoundRobin)
		defer b.Close()
		b.Update(instances(
			discovery.Instance{Addr: addr(0), Version: "1", Weight: 1},
			discovery.Instance{Addr: addr(1), Version: "1", Weight: 1},
			discovery.Instance{Addr: addr(2), Version: "2", Weight: 1},
			discovery.Instance{Addr: addr(3), Version: "2", Weight: 0},
		))
		tell := func(i int, state picker.State, cause string) {
			time.Sleep(time.Second) // simulated, as all of it
			b.conns[addr(i)].endpoint.SetState(state, errors.New(cause))
		}
		wantLast := func(version, want string) {
			t.Helper()
			if got := b.Current().LastErrors(version); got != want {
				t.Errorf("version %q: last errors = %q, want %q", version, got, want)
			}
		}
		wantLast("", "")
		tell(0, picker.Failed, "closed")
		tell(1, picker.Failed, "refused")
		wantLast("", addr(1)+": refused")
		tell(0, picker.Failed, "refused, too")
		tell(3, picker.Failed, "nobody asks")
		wantLast("", addr(0)+": refused, too")
		wantLast("2", "")
		tell(2, picker.Connecting, "lost")
		wantLast("2", addr(2)+", connecting again: lost")
		wantLast("", addr(0)+": refused, too; "+addr(2)+", connecting again: lost")
		b.conns[addr(1)].endpoint.SetState(picker.Ready, nil)
		wantLast("1", "")
	})
}

func TestOnlyANewerRegistrationRenewsTheConnection(t *testing.T) {
	b := newBench(picker.RoundRobin)
	defer b.Close()
	for _, step := range []struct {
		what       string
		key        string
		registered int64
		modified   int64
		renewals   int
		elsewhere  bool // the address is registered for a moment no more
	}{
		{what: "the first", key: "/1", registered: 5, modified: 5},
		{what: "a change", key: "/1", registered: 5, modified: 6},
		{what: "deleted and put anew", key: "/1", registered: 8, modified: 8, renewals: 1},
		{what: "away for a moment", key: "/1", registered: 9, modified: 9, renewals: 2, elsewhere: true},
		{what: "a newer key of the address", key: "/2", registered: 10, modified: 10, renewals: 3},
		{what: "the older key counts again", key: "/1", registered: 9, modified: 11, renewals: 3},
		{what: "and the newer one", key: "/2", registered: 10, modified: 12, renewals: 3},
		{what: "a registry restored from an older state", key: "/2", registered: 4, modified: 4, renewals: 4},
	} {
		if step.elsewhere {
			e := b.conns[addr(0)].endpoint
			e.SetState(picker.Ready, nil)
			running := b.pick("")
			b.Update(instances())
			defer running.End(picker.Result{})
		}
		b.Update(instances(discovery.Instance{
			Addr: addr(0), Weight: 1, Key: step.key, Registered: step.registered, ModRevision: step.modified,
		}))
		if got := b.conns[addr(0)].renewals; got != step.renewals {
			t.Errorf("%s: %d renewals, want %d", step.what, got, step.renewals)
		}
	}
}

// A version that is gone is remembered for an hour, and no longer: deployments come for ever.
func TestVersionsThatAreGoneAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(picker.RoundRobin)
		defer b.Close()
		b.Update(instances(discovery.Instance{Addr: addr(0), Version: "1", Weight: 1}))
		at := time.Now()
		b.Update(instances(discovery.Instance{Addr: addr(0), Version: "2", Weight: 1}))
		for i, after := range []time.Duration{0, time.Hour - time.Second, time.Hour} {
			time.Sleep(time.Until(at.Add(after)))
			b.Update(instances(discovery.Instance{Addr: addr(0), Version: "2", Weight: 2 + i}))
			want := picker.Availability{}
			if after < time.Hour {
				want.ServedUntil = at
			}
			if got := b.Current().Available("1"); got != want {
				t.Errorf("after %s, available of the version that is gone: %+v, want %+v", after, got, want)
			}
		}
	})
}

// What an endpoint does over and over is told a few times, and what it does next at once or soon.
func TestAFailingEndpointDoesNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logged := observer.New(zap.InfoLevel)
		b := &bench{conns: map[string]*conn{}}
		b.Pool = picker.NewPool("hello", picker.RoundRobin, func(e *picker.Endpoint) picker.Conn {
			c := &conn{endpoint: e, closed: make(chan struct{})}
			b.conns[e.Addr()] = c
			return c
		}, metrics.NewEndpoints(prometheus.NewRegistry()), zap.New(core))
		defer b.Close()
		b.Update(weights(1))
		e := b.conns[addr(0)].endpoint
		lines := func() (lines []string) {
			for _, l := range logged.TakeAll() {
				line := l.Message
				if cause, ok := l.ContextMap()["error"].(string); ok {
					line += ": " + cause
				}
				lines = append(lines, line)
			}
			return lines
		}
		want := func(want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, lines()); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
		}
		const (
			ready  = "endpoint is ready"
			failed = "endpoint cannot be reached: "
			lost   = "endpoint has lost its connection and connects again: "
		)
		e.SetState(picker.Ready, nil)
		time.Sleep(time.Hour)
		e.SetState(picker.Connecting, errors.New("EOF"))
		for _, cause := range []string{"closed", "closed", "refused", "refused", "refused"} {
			e.SetState(picker.Failed, errors.New(cause))
			time.Sleep(100 * time.Millisecond)
		}
		e.SetState(picker.Ready, nil)
		want(ready, lost+"EOF", failed+"closed", failed+"refused", ready)

		time.Sleep(time.Hour)
		flap := func(until time.Duration) {
			for end := time.Now().Add(until); time.Now().Before(end); time.Sleep(time.Second) {
				e.SetState(picker.Failed, errors.New("closed"))
				e.SetState(picker.Ready, nil)
			}
		}
		flap(time.Minute)
		if n := len(lines()); n < 2 || n > 20 {
			t.Errorf("%d lines for a minute, want a few", n)
		}
		flap(time.Hour)
		if n := len(lines()); n < 60 || n > 130 {
			t.Errorf("%d lines for an hour, want two a minute", n)
		}
		for range 100 {
			e.SetState(picker.Failed, errors.New("refused"))
			time.Sleep(5 * time.Second)
		}
		want(failed + "refused")
		e.SetState(picker.Ready, nil)
		want(ready)
	})
}

func TestALargePoolMakesFewGenerations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 5000
		b := newBench(picker.RoundRobin)
		b.Update(weights(slices.Repeat([]int{1}, n)...))
		time.Sleep(time.Second) // simulated, as all of it
		first := b.Current()
		b.connect()
		if b.Current() != first {
			t.Error("a generation was made while endpoints were getting ready")
		}
		<-first.Changed()
		if got := b.Current().Available("").Ready; got != n {
			t.Errorf("the next generation has %d ready endpoints, want %d", got, n)
		}
		b.Close()
		time.Sleep(time.Second)
	})
}

// Membership, weights, policy and connections change under a load of calls: every call gets a live endpoint,
// every endpoint closes once, and nothing is left.
func TestChangesUnderLoad(t *testing.T) {
	b := newBench(picker.WeightedRoundRobin)
	var all []*conn
	var allMu sync.Mutex
	b.Pool = picker.NewPool("hello", picker.LeastRequest, func(e *picker.Endpoint) picker.Conn {
		c := &conn{endpoint: e, closed: make(chan struct{})}
		allMu.Lock()
		all = append(all, c)
		allMu.Unlock()
		go e.SetState(picker.Ready, nil)
		return c
	}, metrics.NewEndpoints(prometheus.NewRegistry()), zap.NewNop())

	stop := make(chan struct{})
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if e := b.pick(""); e != nil {
					select {
					case <-e.Conn().(*conn).closed:
						t.Error("picked a closed endpoint")
					default:
					}
					e.End(picker.Result{})
				}
			}
		})
	}
	callers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				b.Status()
			}
		}
	})
	for i := range 500 {
		b.Update(weights(1, i%3, i%2*5, 4)) // drains and revives
		some := weights(make([]int, i%4)...)
		some.Poisoned = []discovery.Poisoned{{Key: "/hello/nowhere", Revision: int64(i)}}
		b.Update(some)
		b.SetPolicy([]string{picker.Random, picker.RoundRobin, picker.LeastRequest, picker.WeightedRoundRobin}[i%4])
	}
	close(stop)
	callers.Wait()
	b.Close()
	for _, c := range all {
		if c.closes != 1 {
			t.Errorf("endpoint %s closed %d times, want once", c.endpoint.Addr(), c.closes)
		}
	}
}

// members is the status of the pool without those that have left, which close in a moment.
func (b *bench) members() []picker.EndpointStatus {
	return slices.DeleteFunc(b.Status().Instances, func(e picker.EndpointStatus) bool { return e.State == "draining" })
}

func TestOnlyWhatPicksDependOnMakesAGeneration(t *testing.T) {
	b := ready(picker.WeightedRoundRobin, instances(
		discovery.Instance{Addr: addr(0), Weight: 1, Version: "1", Key: "/a", Registered: 1, ModRevision: 1},
		discovery.Instance{Addr: addr(1), Weight: 1, Version: "1", Key: "/b", Registered: 2, ModRevision: 2},
	))
	defer b.Close()
	now := instances(
		discovery.Instance{Addr: addr(0), Weight: 1, Version: "1", Key: "/a", Registered: 1, ModRevision: 1},
		discovery.Instance{Addr: addr(1), Weight: 1, Version: "1", Key: "/b", Registered: 2, ModRevision: 2},
	)
	for _, step := range []struct {
		name   string
		change func()
		want   bool
	}{
		{"nothing", func() {}, false},
		{"a revision", func() { now.Revision = 3 }, false},
		{"a write of the same", func() { now.Instances[0].ModRevision = 4 }, false},
		{"a weight", func() { now.Instances[0].Weight = 2 }, true},
		{"a version", func() { now.Instances[1].Version = "2" }, true},
		{"one that joins", func() { now.Instances = append(now.Instances, discovery.Instance{Addr: addr(2), Weight: 1}) }, true},
		{"one that leaves", func() { now.Instances = now.Instances[1:] }, true},
		{"one in another's place", func() { now.Instances[0].Addr = addr(0) }, true},
		{"a poisoned entry", func() { now.Poisoned = []discovery.Poisoned{{Key: "/c"}} }, true},
	} {
		now.Instances = slices.Clone(now.Instances)
		step.change()
		before := b.Current()
		b.Update(now)
		if got := b.Current() != before; got != step.want {
			t.Errorf("%s: another generation is %t, want %t", step.name, got, step.want)
		}
		for i, in := range b.members() {
			if want := now.Instances[i]; in.Addr != want.Addr || in.Weight != want.Weight || in.ModRevision != want.ModRevision {
				t.Errorf("%s: status shows %+v, want %+v", step.name, in, want)
			}
		}
	}
}

// A pool that has followed snapshots of all kinds holds what the last one says, on the connections it had.
func TestPoolFollowsEverySnapshot(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	b := newBench(picker.WeightedRoundRobin)
	type known struct {
		conn       *conn
		registered int64
		renewals   int
	}
	members := map[string]known{}
	served := false
	for step := range 5000 {
		s := instances()
		for i := range 12 {
			if random.IntN(3) > 0 {
				s.Instances = append(s.Instances, discovery.Instance{
					Addr: addr(i), Weight: random.IntN(3), Version: fmt.Sprint(random.IntN(2)), Registered: int64(1 + random.IntN(2)),
				})
			}
		}
		b.Update(s)
		now := map[string]known{}
		want := picker.Availability{Instances: len(s.Instances)}
		for _, in := range s.Instances {
			c := b.conns[in.Addr]
			if was, ok := members[in.Addr]; ok {
				if c != was.conn {
					t.Fatalf("step %d: %s stays and has another connection", step, in.Addr)
				}
				if was.registered != in.Registered {
					was.renewals++
				}
				if c.renewals != was.renewals {
					t.Fatalf("step %d: %d renewals of %s, want %d", step, c.renewals, in.Addr, was.renewals)
				}
			}
			now[in.Addr] = known{c, in.Registered, c.renewals}
			c.endpoint.SetState(picker.Ready, nil)
			if in.Weight > 0 {
				want.Serving++
				want.Ready++
			}
		}
		for addr, was := range members {
			if _, stays := now[addr]; !stays {
				<-was.conn.closed
			}
		}
		members = now
		got := b.Current().Available("")
		if served = served || want.Serving > 0; got.ServedUntil.IsZero() == (served && want.Serving == 0) {
			t.Fatalf("step %d: available = %+v, and some have served: %t", step, got, served)
		}
		want.ServedUntil = got.ServedUntil
		if got != want {
			t.Fatalf("step %d: available = %+v, want %+v", step, got, want)
		}
		status := b.members()
		for i, in := range s.Instances {
			if got := status[i]; got.Addr != in.Addr || got.Weight != in.Weight || got.Version != in.Version {
				t.Fatalf("step %d: status shows %+v, want %+v", step, got, in)
			}
		}
	}
	b.Close()
}

// The first of many takes calls while the others are yet to be dialled.
func TestTheFirstEndpointDoesNotWaitForTheLast(t *testing.T) {
	const n = 900
	var pool *picker.Pool
	var tell sync.WaitGroup
	picked := false
	pool = picker.NewPool("hello", picker.RoundRobin, func(e *picker.Endpoint) picker.Conn {
		tell.Go(func() { e.SetState(picker.Ready, nil) })
		if picked = picked || pool.Current().Available("").Ready > 0; !picked {
			time.Sleep(2 * time.Millisecond) // longer than a mutex is unfair, so that SetState gets its turn
		}
		return nothing{}
	}, metrics.NewEndpoints(prometheus.NewRegistry()), zap.NewNop())
	pool.Update(many(n))
	if !picked {
		t.Errorf("none of %d endpoints could be picked when the last was dialled", n)
	}
	tell.Wait()
	pool.Close()
}
