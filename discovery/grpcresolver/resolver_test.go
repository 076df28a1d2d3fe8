package grpcresolver_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/balancer/leastrequest"
	_ "google.golang.org/grpc/balancer/weightedroundrobin"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/grpcresolver"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

func TestRoundRobinFollowsTheRegistry(t *testing.T) {
	r := newStore(t, etcdtest.Start(t).Endpoint())
	b1, b2, b3 := startBackend(t), startBackend(t), startBackend(t)
	r.register("/hello/"+b1.addr, 1)
	r.register("/hello/1.0.0/"+b2.addr, 10)
	r.register("/hello/"+b3.addr, 0)
	cc := dial(t, "etcd:///hello", grpcresolver.New(r.source), grpc.WithDefaultServiceConfig(roundRobin))
	awaitBackends(t, cc, b1, b2)

	r.register("/hello/"+b3.addr, 1) // no longer drained
	awaitBackends(t, cc, b1, b2, b3)
	r.deregister("/hello/" + b2.addr) // no such key: b2 has a version
	r.deregister("/hello/" + b1.addr)
	awaitBackends(t, cc, b2, b3)
	r.register("/hello/1.0.0/"+b2.addr, 0)
	awaitBackends(t, cc, b3)
}

func TestWeightChangeKeepsTheConnection(t *testing.T) {
	r := newStore(t, etcdtest.Start(t).Endpoint())
	b1, b2 := startBackend(t), startBackend(t)
	r.register("/hello/"+b1.addr, 1)
	cc := dial(t, "etcd:///hello", grpcresolver.New(r.source), grpc.WithDefaultServiceConfig(roundRobin))
	awaitBackends(t, cc, b1)
	r.register("/hello/"+b1.addr, 7)
	r.register("/hello/"+b2.addr, 1) // once this one is called, the weight has arrived
	awaitBackends(t, cc, b1, b2)
	if got := b1.accepted.Load(); got != 1 {
		t.Errorf("%d connections were made, want 1", got)
	}
}

func TestEmptyServiceIsAnErrorWithItsName(t *testing.T) {
	r := newStore(t, etcdtest.Start(t).Endpoint())
	b := startBackend(t)
	for _, policy := range []string{"pick_first", "round_robin", "weighted_round_robin", "least_request_experimental"} {
		t.Run(policy, func(t *testing.T) {
			cc := dial(t, "etcd:///hello", grpcresolver.New(r.source),
				grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"`+policy+`":{}}]}`))
			awaitError(t, cc, `service "hello" has no instances; start one`)
			r.register("/hello/"+b.addr, 1)
			awaitBackends(t, cc, b)
			r.register("/hello/"+b.addr, 0)
			awaitError(t, cc, `service "hello" has no instance to call: all 1 are drained`)
			r.register("/hello/"+b.addr, 1)
			awaitBackends(t, cc, b)
			r.deregister("/hello/" + b.addr)
			awaitError(t, cc, `service "hello" has no instances; start one`)
		})
	}
}

func TestWaitingCallsGoOnceThereIsAnInstance(t *testing.T) {
	r := newStore(t, etcdtest.Start(t).Endpoint())
	b := startBackend(t)
	cc := dial(t, "etcd:///hello", grpcresolver.New(r.source), grpc.WithDefaultServiceConfig(roundRobin))
	awaitError(t, cc, `service "hello"`)
	done := make(chan error, 1)
	go func() { // ends when the instance is registered, below
		_, err := healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
		done <- err
	}()
	r.register("/hello/"+b.addr, 1)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestClientsOfSeveralServicesAndVersions(t *testing.T) {
	r := newStore(t, etcdtest.Start(t).Endpoint())
	b1, b2, b3 := startBackend(t), startBackend(t), startBackend(t)
	r.register("/hello/1.0.0/"+b1.addr, 1)
	r.register("/hello/2.0.0/"+b2.addr, 1)
	r.register("/bye/"+b3.addr, 1)
	builder := grpcresolver.New(r.source)
	for _, test := range []struct {
		target string
		want   []*backend
	}{
		{"etcd:///hello", []*backend{b1, b2}},
		{"etcd://1.0.0/hello", []*backend{b1}},
		{"etcd://2.0.0/hello", []*backend{b2}},
		{"etcd:///bye", []*backend{b3}},
		{"etcd:///hello", []*backend{b1, b2}},
	} {
		// All stay open until the end of the test.
		awaitBackends(t, dial(t, test.target, builder, grpc.WithDefaultServiceConfig(roundRobin)), test.want...)
	}
	awaitError(t, dial(t, "etcd://3.0.0/hello", builder), `version "3.0.0" of service "hello" has no instances`)
}

func TestBadTarget(t *testing.T) {
	for target, want := range map[string]string{
		"etcd:///":          "service name is empty; use etcd:///SERVICE or etcd://VERSION/SERVICE",
		"etcd:///a/b":       `service name "a/b" holds '/'`,
		"etcd://a:80/hello": `version "a:80" holds ':'`,
	} {
		cc := dial(t, target, grpcresolver.New(sourceFunc(nil)))
		if _, err := call(t, cc); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error that says %q", target, err, want)
		}
	}
}

func TestEtcdGoneKeepsWhatWorks(t *testing.T) {
	server := etcdtest.Start(t)
	r := newStore(t, server.Endpoint())
	b1, b2 := startBackend(t), startBackend(t)
	r.register("/hello/"+b1.addr, 1)
	cc := dial(t, "etcd:///hello", grpcresolver.NewImpatient(r.source, time.Millisecond),
		grpc.WithDefaultServiceConfig(roundRobin))
	awaitBackends(t, cc, b1)
	server.Stop()
	for range 10 {
		if _, err := call(t, cc); err != nil {
			t.Fatalf("without etcd: %v", err)
		}
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	r.register("/hello/"+b2.addr, 1)
	awaitBackends(t, cc, b1, b2)
}

func TestEtcdNotThereYet(t *testing.T) {
	server := etcdtest.Start(t)
	r := newStore(t, server.Endpoint())
	b := startBackend(t)
	r.register("/hello/"+b.addr, 1)
	server.Stop()
	cc := dial(t, "etcd:///hello", grpcresolver.NewImpatient(r.source, 500*time.Millisecond))
	awaitError(t, cc, `service "hello": nothing has been heard from the service registry yet: etcd at `+server.Endpoint()+": no connection")
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	awaitBackends(t, cc, b)
}

// sourceFunc is a Source that does as the test says.
type sourceFunc func(ctx context.Context, service string, publish func(discovery.Snapshot)) error

func (f sourceFunc) Run(ctx context.Context, service string, publish func(discovery.Snapshot)) error {
	return f(ctx, service, publish)
}

func TestSourceThatGivesUp(t *testing.T) {
	b := startBackend(t)
	giveUp := make(chan struct{})
	source := sourceFunc(func(_ context.Context, service string, publish func(discovery.Snapshot)) error {
		if service == "hello" {
			publish(discovery.Snapshot{Service: service, Instances: []discovery.Instance{{Addr: b.addr, Weight: 1}}})
			<-giveUp
		}
		return errors.New("the registry is no more")
	})
	cc := dial(t, "etcd:///hello", grpcresolver.New(source), grpc.WithDefaultServiceConfig(roundRobin))
	awaitBackends(t, cc, b)
	close(giveUp)
	for range 10 {
		if _, err := call(t, cc); err != nil {
			t.Fatalf("after the source's end: %v", err)
		}
	}
	awaitError(t, dial(t, "etcd:///bye", grpcresolver.New(source)), `service "bye": the registry is no more`)
}

// recorder is a ClientConn that keeps what a resolver tells it.
type recorder struct {
	resolver.ClientConn
	states chan resolver.State
	errs   chan error
}

func (r recorder) UpdateState(s resolver.State) error {
	r.states <- s
	return errors.New("the policy does not like it")
}

func (r recorder) ReportError(err error) { r.errs <- err }

func TestWhatIsOffered(t *testing.T) {
	closed := make(chan struct{})
	source := sourceFunc(func(ctx context.Context, service string, publish func(discovery.Snapshot)) error {
		publish(discovery.Snapshot{Service: service, Instances: []discovery.Instance{
			{Addr: "10.0.0.1:1", Weight: 1}, {Addr: "10.0.0.2:1", Weight: 0}, {Addr: "10.0.0.3:1", Weight: discovery.MaxWeight},
		}})
		<-ctx.Done()
		close(closed)
		return context.Cause(ctx)
	})
	cc := recorder{states: make(chan resolver.State, 1), errs: make(chan error, 1)}
	target := resolver.Target{}
	target.URL.Path = "/hello"
	built, err := grpcresolver.New(source).Build(target, cc, resolver.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	state := <-cc.states
	weights := map[string]int{}
	for i, e := range state.Endpoints {
		weights[e.Addresses[0].Addr] = grpcresolver.Weight(e)
		if !e.Addresses[0].Equal(state.Addresses[i]) {
			t.Errorf("endpoint %d is %v, address %d is %v", i, e, i, state.Addresses[i])
		}
	}
	if diff := cmp.Diff(map[string]int{"10.0.0.1:1": 1, "10.0.0.3:1": discovery.MaxWeight}, weights); diff != "" {
		t.Errorf("weights (-want +got):\n%s", diff)
	}
	if got := grpcresolver.Weight(resolver.Endpoint{}); got != 0 {
		t.Errorf("weight of an endpoint that has none: %d", got)
	}

	built.ResolveNow(resolver.ResolveNowOptions{})
	built.Close()
	select {
	case <-closed:
	default:
		t.Error("Close did not wait for the source")
	}
	select {
	case s := <-cc.states:
		t.Errorf("a state that nothing asked for: %v", s)
	case err := <-cc.errs:
		t.Errorf("an error that nobody made: %v", err)
	default:
	}
}
