package picker_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
	"go.uber.org/zap"
)

// many is a snapshot of n instances of a few weights.
func many(n int) discovery.Snapshot {
	w := make([]int, n)
	for i := range w {
		w[i] = 1 + i%10
	}
	s := weights(w...)
	for i := range s.Instances {
		s.Instances[i].Version = "1.0.0"
		s.Instances[i].Key = "/lbproxy/hello/1.0.0/" + s.Instances[i].Addr
	}
	return s
}

// nothing is an engine's connection that does nothing.
type nothing struct{}

func (nothing) Renew() {}
func (nothing) Close() {}

func BenchmarkUpdateOneWeight(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := many(n)
			pool := ready(picker.WeightedRoundRobin, s)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s.Instances = slices.Clone(s.Instances)
				s.Instances[n/2].Weight = 1 + i%2
				pool.Update(s)
				pool.Generate()
			}
			pool.Close()
		})
	}
}

// BenchmarkUpdateOneWeight includes a copy of the snapshot, as discovery makes one, too, and the next generation.
// BenchmarkJoin is the time for which the pool's lock keeps new endpoints from telling that they are ready.
func BenchmarkJoin(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := many(n)
			b.ReportAllocs()
			for b.Loop() {
				dial := func(*picker.Endpoint) picker.Conn { return nothing{} }
				pool := picker.NewPool("hello", picker.WeightedRoundRobin, dial, metrics.NewEndpoints(prometheus.NewRegistry()), zap.NewNop())
				pool.Update(s)
			}
		})
	}
}
