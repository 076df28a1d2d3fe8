package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
)

func ready(addr string, weight int, calls uint64) picker.EndpointStatus {
	return picker.EndpointStatus{Addr: addr, Weight: weight, State: "ready", Calls: calls}
}

func counted(in picker.EndpointStatus) uint64 { return in.Calls }

func TestRows(t *testing.T) {
	connecting := ready("c", 4, 0)
	connecting.State = "connecting"
	instances := []picker.EndpointStatus{ready("a", 1, 2), ready("b", 3, 2), connecting, ready("d", 0, 0)}
	for _, test := range []struct {
		policy string
		want   []float64 // expected shares
	}{
		{"weighted_round_robin", []float64{0.25, 0.75, 0, 0}},
		{"round_robin", []float64{0.5, 0.5, 0, 0}},
	} {
		want := []row{
			{"a", 1, "ready", 2, 0.5, test.want[0]},
			{"b", 3, "ready", 2, 0.5, test.want[1]},
			{"c", 4, "connecting", 0, 0, test.want[2]},
			{"d", 0, "ready", 0, 0, test.want[3]},
		}
		if diff := cmp.Diff(want, newRows(test.policy, instances, counted)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", test.policy, diff)
		}
	}
}

func TestMismatches(t *testing.T) {
	five := []int{1, 1, 1, 1, 10}
	for _, test := range []struct {
		name, policy string
		weights      []int
		calls        []uint64
		want         []string
	}{
		{"exact", "weighted_round_robin", five, []uint64{100, 100, 100, 100, 1000}, nil},
		{"a rotation has begun", "weighted_round_robin", five, []uint64{71, 72, 72, 71, 714}, nil},
		{
			"one turn too many", "weighted_round_robin", five,
			[]uint64{71, 73, 71, 71, 714},
			[]string{"b got 73 of 1000 calls, want 71.4, give or take 1.0"},
		},
		{
			"whole rotations", "weighted_round_robin",
			[]int{2, 2},
			[]uint64{501, 499},
			[]string{"a got 501 of 1000 calls, want 500.0, give or take 0.0", "b got 499 of 1000 calls, want 500.0, give or take 0.0"},
		},
		{
			"as if the weights were equal", "weighted_round_robin", five,
			[]uint64{200, 200, 200, 200, 200},
			[]string{
				"a got 200 of 1000 calls, want 71.4, give or take 1.0", "b got 200 of 1000 calls, want 71.4, give or take 1.0",
				"c got 200 of 1000 calls, want 71.4, give or take 1.0", "d got 200 of 1000 calls, want 71.4, give or take 1.0",
				"e got 200 of 1000 calls, want 714.3, give or take 6.0",
			},
		},
		{"no whole rotation", "weighted_round_robin", []int{3000, 2001}, []uint64{605, 395}, nil},
		{
			"no whole rotation, over one percent", "weighted_round_robin",
			[]int{3000, 2001},
			[]uint64{612, 388},
			[]string{"a got 612 of 1000 calls, want 599.9, give or take 10.0", "b got 388 of 1000 calls, want 400.1, give or take 10.0"},
		},
		{"round robin", "round_robin", []int{1, 10, 0}, []uint64{500, 500, 0}, nil},
		{"drawn", "random", five, []uint64{55, 67, 78, 70, 730}, nil},
		{
			"drawn, too far off", "least_request", five,
			[]uint64{20, 72, 72, 72, 764},
			[]string{"a got 20 of 1000 calls, want 71.4, give or take 40.7"},
		},
		{
			"a drained one got a call", "random",
			[]int{1, 0},
			[]uint64{999, 1},
			[]string{"b got 1 of 1000 calls, want 0.0, give or take 0.0"},
		},
		{"no calls", "weighted_round_robin", five, []uint64{0, 0, 0, 0, 0}, []string{"no server got a call"}},
		{"all drained", "weighted_round_robin", []int{0}, []uint64{1}, []string{"no server should have got a call"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var instances []picker.EndpointStatus
			for i, w := range test.weights {
				instances = append(instances, ready(string(rune('a'+i)), w, test.calls[i]))
			}
			got := mismatches(test.policy, newRows(test.policy, instances, counted))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestATallyBeginsAnewWhenSharesChange(t *testing.T) {
	status := func(instances ...picker.EndpointStatus) proxy.ServiceStatus {
		return proxy.ServiceStatus{Status: picker.Status{Policy: picker.WeightedRoundRobin, Instances: instances}}
	}
	failed := ready("b", 1, 75)
	failed.State = "failed"
	again := ready("b", 1, 3) // lbproxy has forgotten the calls before
	again.CreateRevision = 9
	var counted tally
	start := time.Now()
	for i, test := range []struct {
		why   string
		saw   proxy.ServiceStatus
		began int // the look at which the tally began
		calls []uint64
	}{
		{"the first look", status(ready("a", 1, 10), ready("b", 1, 20)), 0, []uint64{0, 0}},
		{"calls", status(ready("a", 1, 15), ready("b", 1, 26)), 0, []uint64{5, 6}},
		{"a new weight", status(ready("a", 2, 30), ready("b", 1, 30)), 2, []uint64{0, 0}},
		{"calls", status(ready("a", 2, 120), ready("b", 1, 75)), 2, []uint64{90, 45}},
		{"one fails", status(ready("a", 2, 120), failed), 4, []uint64{0, 0}},
		{"calls", status(ready("a", 2, 121), failed), 4, []uint64{1, 0}},
		{"registered anew", status(ready("a", 2, 130), again), 6, []uint64{0, 0}},
		{"one is gone", status(ready("a", 2, 140)), 7, []uint64{0}},
	} {
		var calls []uint64
		for _, r := range counted.rows(start.Add(time.Duration(i)*time.Second), test.saw) {
			calls = append(calls, r.Calls)
		}
		if diff := cmp.Diff(test.calls, calls); diff != "" {
			t.Errorf("look %d, %s: calls -want +got:\n%s", i, test.why, diff)
		}
		if want := start.Add(time.Duration(test.began) * time.Second); !counted.since.Equal(want) {
			t.Errorf("look %d, %s: the tally began at %v, want %v", i, test.why, counted.since.Sub(start), want.Sub(start))
		}
	}
}
