package picker_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
)

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
