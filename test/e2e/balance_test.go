package e2e

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/lbproxy/lbproxy/discovery/grpcresolver"
	"github.com/lbproxy/lbproxy/discovery/registry"
	"github.com/lbproxy/lbproxy/metrics"
)

// The scenario that the project began with: five servers of weights 1, 1, 1, 1 and 10.
func TestFiveServersShareCallsByWeight(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		want := map[string]int{}
		for _, weight := range []int{1, 1, 1, 1, 10} {
			want[w.startInstance("hello", "1.0.0", weight).addr] = weight * 100
		}
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 5)
		if diff := cmp.Diff(greet(t, p.dial("hello"), 1400), want); diff != "" {
			t.Errorf("answers of 1400 calls (-got +want):\n%s", diff)
		}
	})
}

// The same servers, called by a Go client that balances by itself.
func TestFiveServersTakeTurnsByTheResolver(t *testing.T) {
	w := newWorld(t, engine{})
	want := map[string]int{}
	for _, weight := range []int{1, 1, 1, 1, 10} {
		want[w.startInstance("hello", "1.0.0", weight).addr] = 20
	}
	source := registry.New(w.client, metrics.NewDiscovery(prometheus.NewRegistry()), zap.NewNop())
	cc := dial(t, "etcd:///hello", grpc.WithResolvers(grpcresolver.New(source)),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
	await(t, "answer from all five", func() bool { return len(greet(t, cc, 5)) == 5 })
	if diff := cmp.Diff(greet(t, cc, 100), want); diff != "" {
		t.Errorf("answers of 100 calls (-got +want):\n%s", diff)
	}
}
