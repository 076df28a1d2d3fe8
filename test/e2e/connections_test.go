package e2e

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/traffic"
)

// Stories of the relay's connections: how many there are, how long they last, how dead ones are found.

// Calls beyond what a backend takes on one connection run at the same time on others, which end when idle.
func TestMoreConnectionsWhereStreamsRunOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, engine{name: configs.EngineRelay})
	const most, calls = 2, 8
	var running atomic.Int32
	all := make(chan struct{})
	w.startInstance("hello", "", 1, func(b *backend) { b.options = append(b.options, grpc.MaxConcurrentStreams(most)) },
		onHello(func(ctx context.Context) error {
			if running.Add(1) == calls {
				close(all)
			}
			select {
			case <-all:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}))
	p := w.startProxy(listed("hello"), func(cfg *configs.Config) { cfg.Relay.Workers = 1 })
	p.awaitReady("hello", 1)
	cc := p.dial("hello")
	failed := make(chan error, calls)
	ctx := within(t)
	for range calls {
		go func() { // ends with the call
			_, err := sayHello(ctx, cc)
			failed <- err
		}()
	}
	for range calls {
		if err := <-failed; err != nil {
			t.Fatalf("of %d calls, %d run: %v", calls, running.Load(), err)
		}
	}
	if got := p.metrics()[`lbproxy_connections{peer="backend"}`]; got != calls/most {
		t.Errorf("there are %v connections for %d calls, %d on each", got, calls, most)
	}
	await(t, "an empty line", func() bool {
		return p.metrics()[`lbproxy_endpoint_waiting{endpoint="`+p.service("hello").Instances[0].Addr+`",service="hello"}`] == 0
	})
}

// Callers whose connections have reached their maximum age connect anew and lose no call.
func TestMaxConnectionAge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, engine{name: configs.EngineRelay})
	w.startInstance("hello", "", 1)
	p := w.startProxy(listed("hello"), func(cfg *configs.Config) { cfg.Relay.MaxConnectionAge = 50 * time.Millisecond })
	p.awaitReady("hello", 1)
	load := p.startLoad("hello", 4)
	await(t, "ten connections that have ended", func() bool {
		return p.metrics()[`lbproxy_connections_ended_total{cause="finished",peer="caller"}`] >= 10
	})
	if calls, err := load.stop(); err != nil {
		t.Errorf("one of %d calls fails: %v", calls, err)
	}
}

// A backend that says nothing while a call runs, and nothing to a PING, loses the call.
func TestKeepaliveFindsTheSilent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, engine{name: configs.EngineRelay})
	b := startBackend(t, onHello(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }), func(b *backend) {
		b.options = append(b.options, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Millisecond}))
	})
	between := etcdtest.Forward(t, b.addr)
	w.startRegistrar(w.newClient(), "hello", discovery.Instance{Addr: between.Endpoint(), Weight: 1})
	p := w.startProxy(listedAs("hello", func(s *traffic.Service) {
		s.Keepalive = traffic.Keepalive{Time: 200 * time.Millisecond, Timeout: 2 * time.Second}
	}))
	p.awaitReady("hello", 1)
	ctx, cc := within(t), p.dial("hello")
	ended := make(chan error, 1)
	go func() { // ends with the call
		_, err := sayHello(ctx, cc)
		ended <- err
	}()
	await(t, "the call at the backend", func() bool { return p.service("hello").Instances[0].InFlight == 1 })
	select {
	case err := <-ended:
		t.Fatalf("a call ends whose backend answers PINGs: %v", err)
	case <-time.After(time.Second):
	}
	between.Stall()
	if err := <-ended; status.Code(err) != codes.Unavailable || reasonOf(err) != string(proxy.BackendLost) {
		t.Errorf("the call ends by %v", err)
	}
	if got := p.metrics()[`lbproxy_connections_ended_total{cause="keepalive_timeout",peer="backend"}`]; got < 1 {
		t.Error("the end of the connection is not counted as keepalive_timeout")
	}
}

// Settings of connections reach those that are open: a call that hangs already, because its backend says nothing any
// more, ends when keepalive is configured, and so does the next on a connection that was idle then.
func TestKeepaliveReachesOpenConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t, engine{name: configs.EngineRelay})
	b := startBackend(t, onHello(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))
	between := etcdtest.Forward(t, b.addr)
	idle := startBackend(t)
	betweenIdle := etcdtest.Forward(t, idle.addr)
	client := w.newClient()
	w.startRegistrar(client, "busy", discovery.Instance{Addr: between.Endpoint(), Weight: 1})
	w.startRegistrar(client, "idle", discovery.Instance{Addr: betweenIdle.Endpoint(), Weight: 1})
	p := w.startProxy(listed("busy", "idle"))
	p.awaitReady("busy", 1)
	p.awaitReady("idle", 1)
	ctx, cc := within(t), p.dial("busy")
	ended := make(chan error, 1)
	go func() { // ends with the call
		_, err := sayHello(ctx, cc)
		ended <- err
	}()
	await(t, "the call at the backend", func() bool { return p.service("busy").Instances[0].InFlight == 1 })
	between.Stall()
	betweenIdle.Stall()
	p.reload(func(cfg *configs.Config) {
		cfg.Services = map[string]traffic.Service{}
		for _, name := range []string{"busy", "idle"} {
			s := traffic.DefaultService()
			s.Keepalive = traffic.Keepalive{Time: 200 * time.Millisecond, Timeout: 200 * time.Millisecond}
			cfg.Services[name] = s
		}
	})
	if err := <-ended; status.Code(err) != codes.Unavailable || reasonOf(err) != string(proxy.BackendLost) {
		t.Errorf("the call that ran ends by %v", err)
	}
	if _, err := sayHello(ctx, p.dial("idle")); status.Code(err) != codes.Unavailable || reasonOf(err) != string(proxy.BackendLost) {
		t.Errorf("the call on the connection that was idle ends by %v", err)
	}
}
