package grpcengine_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/grpcengine"
	"github.com/lbproxy/lbproxy/proxy/transport"
	"github.com/lbproxy/lbproxy/traffic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// instances is a source that publishes once.
type instances []string

func (s instances) Run(ctx context.Context, service string, publish func(discovery.Snapshot)) error {
	snapshot := discovery.Snapshot{Service: service}
	for _, addr := range s {
		snapshot.Instances = append(snapshot.Instances, discovery.Instance{Addr: addr, Weight: 1})
	}
	publish(snapshot)
	<-ctx.Done()
	return context.Cause(ctx)
}

// endpoints are those that an engine has connected to, by address.
type endpoints struct {
	*grpcengine.Engine

	mu sync.Mutex // protects:
	by map[string]*picker.Endpoint
}

func (e *endpoints) Dial(ep *picker.Endpoint, live *transport.Live) picker.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.by[ep.Addr()] = ep
	return e.Engine.Dial(ep, live)
}

func (e *endpoints) at(addr string) *picker.Endpoint {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.by[addr]
}

// A call that cannot be sent to the instance that was picked goes to another, which counts as a retry.
func TestRetry(t *testing.T) {
	live := listen(t)
	backend := grpc.NewServer()
	healthpb.RegisterHealthServer(backend, health.NewServer())
	go backend.Serve(live) // ends with Stop
	t.Cleanup(backend.Stop)
	gone := listen(t)
	gone.Close()

	reg, log := prometheus.NewRegistry(), zap.NewNop()
	services := proxy.NewDirectory(proxy.DirectoryConfig{
		Source:      instances{live.Addr().String(), gone.Addr().String()},
		IdleRelease: time.Hour,
		MaxOnDemand: 1,
		Calls:       metrics.NewCalls(reg),
		Endpoints:   metrics.NewEndpoints(reg),
		Log:         log,
	})
	descriptors := transport.NewDescriptors(1<<20, 0, metrics.NewDescriptors(reg), log)
	engine := grpcengine.New(proxy.NewRouter(services), transport.NewDialer(), descriptors, "", log)
	dialled := &endpoints{Engine: engine, by: map[string]*picker.Endpoint{}}
	services.Start(dialled, &traffic.Rules{
		Services: map[string]traffic.Service{"hello": {Policy: picker.RoundRobin, WaitTimeout: time.Minute}},
	})
	t.Cleanup(services.Close)
	front := listen(t)
	served := make(chan error, 1)
	go func() { served <- engine.Serve(proxy.Listener{Listener: front, Service: "hello"}) }()
	t.Cleanup(func() {
		engine.Shutdown(t.Context())
		if err := <-served; err != nil {
			t.Error(err)
		}
	})

	cc, err := grpc.NewClient("passthrough:///"+front.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for retries(t, reg) == 0 {
		if _, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
		// It is connected, as far as the policy has been told, and grpc-go knows better.
		if e := dialled.at(gone.Addr().String()); e != nil {
			e.SetState(picker.Ready, nil)
		}
	}
}

// retries is how many are counted, of all services.
func retries(t *testing.T, reg prometheus.Gatherer) (n float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "lbproxy_call_retries_total" {
			for _, m := range f.Metric {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

func listen(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
