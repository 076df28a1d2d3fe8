package grpcresolver_test

import (
	"context"
	"encoding/json"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registry"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
	"github.com/lbproxy/lbproxy/metrics"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

// A backend is a gRPC server that serves grpc.health.v1.
type backend struct {
	net.Listener
	addr     string
	accepted atomic.Int64
}

func (b *backend) Accept() (net.Conn, error) {
	c, err := b.Listener.Accept()
	if err == nil {
		b.accepted.Add(1)
	}
	return c, err
}

func startBackend(t *testing.T) *backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{Listener: l, addr: l.Addr().String()}
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, health.NewServer())
	go server.Serve(b) // ends when server stops
	t.Cleanup(server.Stop)
	return b
}

// A store is an etcd in which the tests register by hand.
type store struct {
	t      *testing.T
	etcd   *clientv3.Client
	source discovery.Source
}

func newStore(t *testing.T, endpoint string) store {
	t.Helper()
	client, err := etcd.NewClient(etcd.Config{Endpoints: []string{endpoint}}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	source := registry.New(client, metrics.NewDiscovery(prometheus.NewRegistry()), zap.NewNop())
	return store{t, etcdtest.Client(t, endpoint), source}
}

func (r store) register(key string, weight int) {
	r.t.Helper()
	value, err := json.Marshal(map[string]any{"weight": weight})
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.etcd.Put(r.t.Context(), key, string(value)); err != nil {
		r.t.Fatal(err)
	}
}

func (r store) deregister(key string) {
	r.t.Helper()
	if _, err := r.etcd.Delete(r.t.Context(), key); err != nil {
		r.t.Fatal(err)
	}
}

const roundRobin = `{"loadBalancingConfig":[{"round_robin":{}}]}`

func dial(t *testing.T, target string, b resolver.Builder, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(target, append(opts,
		grpc.WithResolvers(b), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// call makes a call and returns the address of the backend that answered.
func call(t *testing.T, cc *grpc.ClientConn) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var p peer.Peer
	_, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Peer(&p))
	if err != nil {
		return "", err
	}
	return p.Addr.String(), nil
}

// awaitBackends calls until the calls go to exactly the given backends.
func awaitBackends(t *testing.T, cc *grpc.ClientConn, want ...*backend) {
	t.Helper()
	var wanted, got []string
	for _, b := range want {
		wanted = append(wanted, b.addr)
	}
	slices.Sort(wanted)
	var lastErr error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		got = nil
		for range 2 * len(want) {
			addr, err := call(t, cc)
			if err != nil {
				lastErr = err
				continue
			}
			got = append(got, addr)
		}
		slices.Sort(got)
		if got = slices.Compact(got); slices.Equal(got, wanted) {
			return
		}
	}
	t.Fatalf("calls go to %v, want %v; last error: %v", got, wanted, lastErr)
}

// awaitError calls until a call fails with an error that says what.
func awaitError(t *testing.T, cc *grpc.ClientConn, what string) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if _, err = call(t, cc); err != nil && strings.Contains(err.Error(), what) {
			return
		}
	}
	t.Fatalf("calls got %v, want an error that says %q", err, what)
}
