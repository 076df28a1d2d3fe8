package picker_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
)

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
		{"one that is ready", func() { b.endpoint(0).SetState(picker.Ready, nil) }, true},
		{"a further connection that fails", func() { b.endpoint(0).SetState(picker.Ready, errors.New("refused")) }, false},
		{"one that is lost", func() { b.endpoint(0).SetState(picker.Connecting, errors.New("EOF")) }, true},
		{"one that stays lost", func() { b.endpoint(0).SetState(picker.Failed, errors.New("refused")) }, false},
		{"one that is drained", func() { now.Instances[1].Weight = 0 }, true},
		{"a drained one that is ready", func() { b.endpoint(2).SetState(picker.Ready, nil) }, false},
	} {
		now.Instances = slices.Clone(now.Instances)
		before := b.Current()
		step.change()
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

// A large pool makes its next generation a moment after a change. Until then calls go to what the last one holds.
func TestEndpointsStayOpenAsLongAsTheyCanBePicked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const few, many = 1000, 3000
		w := make([]int, many)
		for i := range w {
			w[i] = 1
		}
		b := ready(picker.RoundRobin, weights(w...))
		defer b.Close()
		changed := b.Current().Changed()
		b.Update(weights(w[:few]...))
		if got := b.calls(t, many); len(got) != many {
			t.Errorf("%d endpoints were picked before the next generation, want %d", len(got), many)
		}
		<-changed
		if got := b.calls(t, many); len(got) != few {
			t.Errorf("%d endpoints were picked from the next generation, want %d", len(got), few)
		}
		for i := range w {
			if c := b.conns[addr(i)]; i >= few {
				<-c.closed
			} else if c.closes != 0 {
				t.Fatalf("endpoint %d has closed, and is a member", i)
			}
		}
	})
}
