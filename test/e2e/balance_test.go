package e2e

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/grpcresolver"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// The scenario that the project began with: five servers of weights 1, 1, 1, 1 and 10.
func TestFiveServersShareCallsByWeight(t *testing.T) {
	etcd := etcdtest.Start(t)
	client := etcdClient(t, etcd.Endpoint())
	want := map[string]int{}
	for _, weight := range []int{1, 1, 1, 1, 10} {
		b := startBackend(t)
		b.register(t, client, "hello", "1.0.0", weight)
		want[b.addr] = weight * 100
	}
	p := startProxy(t, etcd.Endpoint(), listed("hello"))
	p.awaitReady("hello", 5)
	if diff := cmp.Diff(greet(t, p.dial("hello"), 1400), want); diff != "" {
		t.Errorf("answers of 1400 calls (-got +want):\n%s", diff)
	}
}

// The same servers, called by a Go client that balances by itself.
func TestFiveServersTakeTurnsByTheResolver(t *testing.T) {
	etcd := etcdtest.Start(t)
	client := etcdClient(t, etcd.Endpoint())
	want := map[string]int{}
	for _, weight := range []int{1, 1, 1, 1, 10} {
		b := startBackend(t)
		b.register(t, client, "hello", "1.0.0", weight)
		want[b.addr] = 20
	}
	source := discovery.NewEtcd(client, metrics.New(prometheus.NewRegistry(), "e2e"), zap.NewNop())
	cc := dial(t, "etcd:///hello", grpc.WithResolvers(grpcresolver.New(source)),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
	await(t, "answer from all five", func() bool { return len(greet(t, cc, 5)) == 5 })
	if diff := cmp.Diff(greet(t, cc, 100), want); diff != "" {
		t.Errorf("answers of 100 calls (-got +want):\n%s", diff)
	}
}
