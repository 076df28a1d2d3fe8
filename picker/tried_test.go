package picker_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/picker"
)

var policies = []string{picker.WeightedRoundRobin, picker.RoundRobin, picker.Random, picker.LeastRequest}

// attempt picks for a call that has been to the endpoints tried, and ends it at once.
func (b *bench) attempt(t testing.TB, tried ...*picker.Endpoint) *picker.Endpoint {
	t.Helper()
	e, _ := b.Pick(&picker.Info{Tried: tried})
	if e == nil {
		t.Fatal("nothing to pick")
	}
	e.End(picker.Result{})
	return e
}

func (b *bench) endpoint(i int) *picker.Endpoint { return b.conns[addr(i)].endpoint }

func TestACallGoesEverywhereBeforeItGoesAnywhereAgain(t *testing.T) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			b := ready(policy, weights(1, 2, 3, 65535, 5, 6))
			defer b.Close()
			for range 100 {
				info := picker.Info{}
				seen := map[string]int{}
				for range 2 * 6 {
					e, _ := b.Pick(&info)
					info.Tried = append(info.Tried, e)
					seen[e.Addr()]++
					e.Return()
					if len(info.Tried) != len(seen) && len(seen) < 6 {
						t.Fatalf("%s was picked again, and there were others: %v", e.Addr(), seen)
					}
				}
				for addr, n := range seen {
					if n != 2 {
						t.Fatalf("in two rounds %s was picked %d times: %v", addr, n, seen)
					}
				}
			}
		})
	}
}

func TestOthersShareByWeightWhatWasTried(t *testing.T) {
	const picks = 14_000
	for _, policy := range policies {
		w := []int{1, 1, 4, 1, 10, 3}
		for _, tried := range [][]int{{4}, {0}, {5, 2}, {4, 0, 1, 3}} {
			b := ready(policy, weights(w...))
			left := 0
			var endpoints []*picker.Endpoint
			share := make([]float64, len(w))
			for i, w := range w {
				share[i] = float64(w)
				if policy == picker.RoundRobin {
					share[i] = 1
				}
			}
			for _, i := range tried {
				share[i] = 0
				endpoints = append(endpoints, b.endpoint(i), b.endpoint(i))
			}
			sum := 0.0
			for _, s := range share {
				sum += s
				if s > 0 {
					left++
				}
			}
			got := map[string]int{}
			for range picks {
				got[b.attempt(t, endpoints...).Addr()]++
			}
			if len(got) != left {
				t.Errorf("%s: with %v tried, %d endpoints were picked, want %d: %v", policy, tried, len(got), left, got)
			}
			for i, s := range share {
				if off := math.Abs(float64(got[addr(i)])/picks - s/sum); off > 0.02 {
					t.Errorf("%s: with %v tried, endpoint %d got %d of %d, want a share of %.3f", policy, tried, i, got[addr(i)], picks, s/sum)
				}
			}
			b.Close()
		}
	}
}

// A retry takes one turn. Where that is of an endpoint that the call has tried, only this turn goes to another.
func TestARetryLeavesTheOthersTheirTurns(t *testing.T) {
	for _, policy := range []string{picker.WeightedRoundRobin, picker.RoundRobin} {
		b := ready(policy, weights(1, 2, 3, 4))
		rotation := 10
		if policy == picker.RoundRobin {
			rotation = 4
		}
		var first []*picker.Endpoint
		for range rotation {
			first = append(first, b.attempt(t))
		}
		for turn, of := range first {
			if turn%2 == 0 {
				if got := b.attempt(t, of); got == of {
					t.Errorf("%s: turn %d went to %s, which had been tried", policy, turn, of.Addr())
				}
			} else if got := b.attempt(t); got != of {
				t.Errorf("%s: turn %d went to %s, want %s as in the rotation before", policy, turn, got.Addr(), of.Addr())
			}
		}
		b.Close()
	}
}

// What a call has tried may have left, or be of no weight any more.
func TestTriedEndpointsThatAreGoneDoNotMatter(t *testing.T) {
	for _, policy := range policies {
		b := ready(policy, weights(1, 1, 1))
		gone := []*picker.Endpoint{b.endpoint(2), b.endpoint(1)}
		b.Update(weights(1, 0))
		if got := b.attempt(t, gone...).Addr(); got != addr(0) {
			t.Errorf("%s: picked %s", policy, got)
		}
		b.Update(weights(1, 0, 1))
		b.connect()
		got := map[string]bool{}
		for range 100 {
			got[b.attempt(t, gone...).Addr()] = true
		}
		if want := map[string]bool{addr(0): true, addr(2): true}; !cmp.Equal(got, want) {
			t.Errorf("%s: picked %v, want the one that is registered anew as well: it is another", policy, got)
		}
		b.Close()
	}
}

func TestARetryAllocatesNothing(t *testing.T) {
	for _, policy := range policies {
		b := ready(policy, weights(1, 1, 1, 1, 10))
		b.calls(t, 200)
		info := picker.Info{Tried: []*picker.Endpoint{b.endpoint(4), b.endpoint(0)}}
		if n := testing.AllocsPerRun(100, func() {
			e, _ := b.Pick(&info)
			e.Return()
		}); n != 0 {
			t.Errorf("%s: %v allocations per retry, want 0", policy, n)
		}
		b.Close()
	}
}
