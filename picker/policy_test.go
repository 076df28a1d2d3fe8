package picker_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/picker"
)

func TestUnknownPolicyNamesTheKnownOnes(t *testing.T) {
	err := picker.ValidatePolicy("rr")
	if err == nil || !strings.Contains(err.Error(), `"rr"`) || !strings.Contains(err.Error(), "weighted_round_robin") {
		t.Errorf("error = %v", err)
	}
}

func TestEachRotationHasExactShares(t *testing.T) {
	for _, w := range [][]int{{1}, {1, 1}, {1, 1, 1, 1, 10}, {2, 4, 6}, {65535, 1}, {7, 11, 13, 500}, {100, 100, 100}} {
		t.Run(fmt.Sprint(w), func(t *testing.T) {
			b := ready(picker.WeightedRoundRobin, weights(w...))
			defer b.Close()
			total := 0
			want := map[string]int{}
			for i, w := range w {
				want[addr(i)] = w
				total += w
			}
			for rotation := range 3 {
				if got := b.calls(t, total); !cmp.Equal(got, want) {
					t.Errorf("rotation %d: calls = %v, want %v", rotation, got, want)
				}
			}
		})
	}
}

func TestARotationIsSmooth(t *testing.T) {
	b := ready(picker.WeightedRoundRobin, weights(1, 1, 1, 1, 10))
	defer b.Close()
	longest, run, last := 0, 0, ""
	for range 14 * 10 {
		got := b.call(t)
		if got != last {
			last, run = got, 0
		}
		run++
		longest = max(longest, run)
	}
	// Ten calls of fourteen cannot be spread thinner than three in a row; the stride adds at most one.
	if longest > 4 {
		t.Errorf("%d calls in a row went to one endpoint, want at most 4", longest)
	}
}

func TestSharesFollowTheWeights(t *testing.T) {
	const picks = 10_000
	random := rand.New(rand.NewPCG(1, 2))
	many := make([]int, 40)
	for i := range many {
		many[i] = 1 + random.IntN(500)
	}
	for _, policy := range []string{picker.WeightedRoundRobin, picker.Random, picker.LeastRequest} {
		for name, w := range map[string][]int{"five": {1, 1, 1, 1, 10}, "skewed": {65535, 650, 1}, "forty": many} {
			t.Run(policy+"/"+name, func(t *testing.T) {
				b := ready(policy, weights(w...))
				defer b.Close()
				sum := 0
				for _, w := range w {
					sum += w
				}
				got := b.calls(t, picks)
				for i, w := range w {
					share := float64(w) / float64(sum)
					off := math.Abs(float64(got[addr(i)])/picks - share)
					bound := 0.01
					if policy == picker.WeightedRoundRobin {
						bound = 0.001
					} else { // four standard deviations, where that is more
						bound = max(bound, 4*math.Sqrt(share*(1-share)/picks))
					}
					if off > bound {
						t.Errorf("weight %d of %d got %d of %d calls: off by %.4f, want at most %.4f", w, sum, got[addr(i)], picks, off, bound)
					}
				}
			})
		}
	}
}

func TestRoundRobinIgnoresWeights(t *testing.T) {
	b := ready(picker.RoundRobin, weights(1, 10, 100))
	defer b.Close()
	want := map[string]int{addr(0): 5, addr(1): 5, addr(2): 5}
	if got := b.calls(t, 15); !cmp.Equal(got, want) {
		t.Errorf("calls = %v, want %v", got, want)
	}
}

func TestAChangeOfMembersPicksNobodyTwice(t *testing.T) {
	b := ready(picker.RoundRobin, weights(1, 1, 1, 1))
	defer b.Close()
	var order []string
	for i := range 12 {
		order = append(order, b.call(t))
		if i%2 == 0 {
			b.Update(weights(1, 1, 1, 1, 1, 1)) // two more, not connected at first
			b.connect()
		} else {
			b.Update(weights(1, 1, 1, 1))
		}
	}
	for i := range order[1:] {
		if order[i] == order[i+1] {
			t.Errorf("%s was picked twice in a row: %v", order[i], order)
		}
	}
	// In twelve picks over four to six endpoints, nobody has more than three turns.
	for _, a := range order {
		if n := len(slices.DeleteFunc(slices.Clone(order), func(s string) bool { return s != a })); n > 3 {
			t.Errorf("%s was picked %d times of 12: %v", a, n, order)
		}
	}
}

func TestANewInstanceHasItsShareInTheNextRotation(t *testing.T) {
	b := ready(picker.WeightedRoundRobin, weights(2, 2, 4))
	defer b.Close()
	b.calls(t, 5)
	b.Update(weights(2, 2, 4, 8))
	b.connect()
	want := map[string]int{addr(0): 1, addr(1): 1, addr(2): 2, addr(3): 4}
	if got := b.calls(t, 8); !cmp.Equal(got, want) {
		t.Errorf("first rotation with it = %v, want %v", got, want)
	}
}

func TestConstantChangeStarvesNobody(t *testing.T) {
	b := ready(picker.WeightedRoundRobin, weights(1, 1, 1, 1, 10))
	defer b.Close()
	got := map[string]int{}
	for i := range 1400 {
		got[b.call(t)]++
		b.Update(weights(1, 1, 1, 1, 10+i%2)) // a new generation after every call
	}
	for i, want := range []int{100, 100, 100, 100, 1000} {
		if n := got[addr(i)]; n < want/2 || n > want*2 {
			t.Errorf("endpoint %d got %d calls of 1400, want about %d", i, n, want)
		}
	}
}

func TestLeastRequestAvoidsTheBusy(t *testing.T) {
	b := ready(picker.LeastRequest, weights(1, 1, 1, 1))
	defer b.Close()
	busy := b.pick("")
	for range 400 {
		e := b.pick("")
		defer e.End(picker.Result{})
	}
	busy.End(picker.Result{})
	for _, in := range b.Status().Instances {
		if in.InFlight < 90 || in.InFlight > 110 {
			t.Errorf("%s runs %d of 400 calls, want about 100", in.Addr, in.InFlight)
		}
	}
}

func TestLeastRequestWeighsTheLoad(t *testing.T) {
	b := ready(picker.LeastRequest, weights(1, 9))
	defer b.Close()
	for range 1000 {
		e := b.pick("")
		defer e.End(picker.Result{})
	}
	if n := b.Status().Instances[1].InFlight; n < 880 || n > 920 {
		t.Errorf("the endpoint of weight 9 of 10 runs %d of 1000 calls, want about 900", n)
	}
}

func TestPickingAllocatesNothing(t *testing.T) {
	for _, policy := range []string{picker.WeightedRoundRobin, picker.RoundRobin, picker.Random, picker.LeastRequest} {
		b := ready(policy, weights(1, 1, 1, 1, 10))
		b.calls(t, 200) // an endpoint's first call is the one that allocates
		if n := testing.AllocsPerRun(100, func() { b.call(t) }); n != 0 {
			t.Errorf("%s: %v allocations per call, want 0", policy, n)
		}
		b.Close()
	}
}

func BenchmarkPick(b *testing.B) {
	for _, policy := range []string{picker.WeightedRoundRobin, picker.RoundRobin, picker.Random, picker.LeastRequest} {
		for _, n := range []int{10, 1000, 100_000} {
			w := make([]int, n)
			for i := range w {
				w[i] = 1 + i%10
			}
			pool := ready(policy, weights(w...))
			b.Run(fmt.Sprintf("%s/%d", policy, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					pool.PickOnly(&anybody)
				}
			})
			b.Run(fmt.Sprintf("%s/%d/parallel", policy, n), func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						pool.PickOnly(&anybody)
					}
				})
			})
			b.Run(fmt.Sprintf("%s/%d/call", policy, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					pool.call(b)
				}
			})
			b.Run(fmt.Sprintf("%s/%d/call/parallel", policy, n), func(b *testing.B) {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						pool.call(b)
					}
				})
			})
			pool.Close()
		}
	}
}

func BenchmarkGeneration(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := make([]int, n)
			for i := range w {
				w[i] = 1 + i%10
			}
			pool := ready(picker.WeightedRoundRobin, weights(w...))
			for b.Loop() {
				pool.Generate()
			}
			pool.Close()
		})
	}
}
