package e2e

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/traffic"
)

// A process that is killed takes its calls with it, but no later ones; when its lease has run out it is gone.
func TestKilledInstanceGetsNoCalls(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		stays, killed := w.startInstance("hello", "", 1), w.startInstance("hello", "", 1)
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 2)
		killed.abandon()
		killed.kill()
		await(t, "lost connection", func() bool { return p.ready("hello") == 1 })
		if diff := cmp.Diff(greet(t, p.dial("hello"), 20), map[string]int{stays.addr: 20}); diff != "" {
			t.Errorf("answers once its connection is lost (-got +want):\n%s", diff)
		}
		killed.expire(w.etcd)
		p.awaitReady("hello", 1)
		if _, known := p.metrics()[fmt.Sprintf(`lbproxy_endpoint_weight{endpoint=%q,service="hello"}`, killed.addr)]; known {
			t.Error("its series outlive it")
		}
	})
}

// An instance whose lease has run out gets no calls even if it could answer them.
func TestExpiredInstanceGetsNoCalls(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		stays := w.startInstance("hello", "", 1)
		w.ttl = 2 * time.Second // the shortest that there is; if its registrar misses that, it registers again
		expires := w.startInstance("hello", "", 1)
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 2)
		expires.abandon()
		p.awaitReady("hello", 1)
		if diff := cmp.Diff(greet(t, p.dial("hello"), 20), map[string]int{stays.addr: 20}); diff != "" {
			t.Errorf("answers (-got +want):\n%s", diff)
		}
	})
}

// Weight 0 drains an instance: its streams go on, new calls go elsewhere, until it has a weight again.
func TestDrainedInstanceGetsNoNewCalls(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		one, two := w.startInstance("hello", "", 1), w.startInstance("hello", "", 1)
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 2)
		cc := p.dial("hello")
		stream := p.converse(within(t), "hello")
		drained, stays := one, two
		if p.mustAsk(stream) == two.addr {
			drained, stays = two, one
		}

		drained.setWeight(0)
		p.awaitWeight("hello", drained.addr, 0)
		if diff := cmp.Diff(greet(t, cc, 20), map[string]int{stays.addr: 20}); diff != "" {
			t.Errorf("answers while one is drained (-got +want):\n%s", diff)
		}
		if addr := p.mustAsk(stream); addr != drained.addr {
			t.Errorf("the stream is answered by %s, want %s as before", addr, drained.addr)
		}
		if err := stream.end(); err != nil {
			t.Errorf("the stream ends by %v", err)
		}

		drained.setWeight(1)
		p.awaitWeight("hello", drained.addr, 1)
		if diff := cmp.Diff(greet(t, cc, 20), map[string]int{one.addr: 10, two.addr: 10}); diff != "" {
			t.Errorf("answers when it has a weight again (-got +want):\n%s", diff)
		}
	})
}

func TestSharesFollowWeights(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		one, two := w.startInstance("hello", "", 1), w.startInstance("hello", "", 1)
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 2)
		cc := p.dial("hello")
		for _, weight := range []int{1, 3, 7, 1} {
			two.setWeight(weight)
			p.awaitWeight("hello", two.addr, weight)
			want := map[string]int{one.addr: 50, two.addr: 50 * weight}
			if diff := cmp.Diff(greet(t, cc, 50*(1+weight)), want); diff != "" {
				t.Errorf("answers at weights 1 and %d (-got +want):\n%s", weight, diff)
			}
		}
	})
}

func TestNewInstanceGetsCalls(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		want := map[string]int{w.startInstance("hello", "", 1).addr: 10}
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 1)
		cc := p.dial("hello")
		for n := 2; n <= 4; n++ {
			want[w.startInstance("hello", "", 1).addr] = 10
			p.awaitReady("hello", n)
			if diff := cmp.Diff(greet(t, cc, 10*n), want); diff != "" {
				t.Errorf("answers of %d instances (-got +want):\n%s", n, diff)
			}
		}
	})
}

// Streams outlive the registration of their instance; the connection goes with the last of them.
func TestDeregistrationInMidStream(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		leaves := w.startInstance("hello", "", 1)
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 1)
		stream := p.converse(within(t), "hello")
		p.mustAsk(stream)
		stays := w.startInstance("hello", "", 1)
		p.awaitReady("hello", 2)

		leaves.deregister()
		await(t, "draining instance", func() bool { return p.stateOf("hello", leaves.addr) == "draining" })
		if diff := cmp.Diff(greet(t, p.dial("hello"), 20), map[string]int{stays.addr: 20}); diff != "" {
			t.Errorf("answers to new calls (-got +want):\n%s", diff)
		}
		for range 3 {
			if addr := p.mustAsk(stream); addr != leaves.addr {
				t.Errorf("the stream is answered by %s, want %s as before", addr, leaves.addr)
			}
		}
		if err := stream.end(); err != nil {
			t.Errorf("the stream ends by %v", err)
		}
		p.awaitReady("hello", 1)
		stopped := make(chan struct{})
		go func() { // ends when the proxy has closed its connection
			leaves.GracefulStop()
			close(stopped)
		}()
		select {
		case <-stopped:
		case <-time.After(patience):
			t.Error("the proxy keeps its connection to an instance that is gone")
		}
	})
}

// A process that has crashed, and been away for so long that the proxy tries it but rarely, is used again as soon
// as it is registered again.
func TestRestartedInstanceIsUsedAtOnce(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		crashed := w.startInstance("hello", "", 1)
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 1)
		crashed.abandon()
		crashed.kill()
		await(t, "instance that has failed for some time", func() bool {
			in := p.service("hello").Instances[0]
			return in.State == "failed" && time.Since(in.Since) > 3*time.Second
		})

		restarted := startBackend(t, at(crashed.addr))
		start := time.Now()
		w.register(restarted, "hello", "", 1)
		p.awaitReady("hello", 1)
		if took := time.Since(start); took > time.Second {
			t.Errorf("connected %s after its registration", took)
		}
		greet(t, p.dial("hello"), 1)
	})
}

// The only instance is restarted, in whichever way, while calls come: none of those that come meanwhile fails.
func TestCallsOutlastARestart(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		for _, c := range []struct {
			name      string
			end       func(*instance)
			abandoned bool // its registration outlives it
		}{
			{"kill -9 of it and its registrar", func(in *instance) { in.abandon(); in.kill() }, true},
			{"kill -9 of it, then of its registrar", func(in *instance) { in.kill(); in.abandon() }, true},
			{"deregistered, then stopped", func(in *instance) { in.deregister(); in.kill() }, false},
			{"drained, deregistered, then stopped", func(in *instance) { in.setWeight(0); in.deregister(); in.kill() }, false},
		} {
			t.Run(c.name, func(t *testing.T) {
				w := newWorld(t, w.engine)
				in := w.startInstance("hello", "", 1)
				p := w.startProxy(listedAs("hello", func(s *traffic.Service) { s.WaitTimeout = patience }))
				p.awaitReady("hello", 1)
				greet(t, p.dial("hello"), 1)
				c.end(in)
				waiting := p.startLoad("hello", 8)
				await(t, "calls that wait", func() bool { return p.metrics()[`lbproxy_calls_in_flight{service="hello"}`] == 8 })
				restarted := w.register(startBackend(t, at(in.addr)), "hello", "", 1)
				await(t, "calls", func() bool { return waiting.calls.Load() > 20 })
				if c.abandoned {
					in.expire(w.etcd)
				}
				if calls, err := waiting.stop(); err != nil {
					t.Errorf("one of %d calls fails: %v", calls, err)
				}
				await(t, "the last registration, and no other", func() bool {
					instances := p.service("hello").Instances
					return len(instances) == 1 && instances[0].ModRevision == restarted.Status().ModRevision
				})
			})
		}
	})
}

// Etcd takes the only instance's lease away while it is well: it registers again before any call fails.
func TestCallsOutlastALostLease(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		in := w.startInstance("hello", "", 1)
		p := w.startProxy(listedAs("hello", func(s *traffic.Service) { s.WaitTimeout = patience }))
		p.awaitReady("hello", 1)
		load := p.startLoad("hello", 4)
		for range 3 {
			before := in.Status()
			in.expire(w.etcd)
			await(t, "another registration", func() bool {
				instances := p.service("hello").Instances
				return len(instances) == 1 && instances[0].State == "ready" &&
					instances[0].CreateRevision > before.CreateRevision && instances[0].CreateRevision == in.Status().CreateRevision
			})
		}
		if calls, err := load.stop(); err != nil || calls == 0 {
			t.Errorf("one of %d calls fails: %v", calls, err)
		}
	})
}

// A backend that goes and comes back while it is registered all the time is found again.
func TestBackendComesBack(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		in := w.startInstance("hello", "", 1)
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 1)
		cc := p.dial("hello")
		for range 3 {
			in.kill()
			await(t, "lost connection", func() bool { return p.ready("hello") == 0 })
			in.backend = startBackend(t, at(in.addr))
			p.awaitReady("hello", 1)
			greet(t, cc, 10)
		}
	})
}

// Servers that end each connection after some time, gracefully, lose no call.
func TestConnectionsThatEndLoseNoCall(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		for range 2 {
			w.startInstance("hello", "", 1, func(b *backend) {
				b.options = append(b.options, grpc.KeepaliveParams(keepalive.ServerParameters{
					MaxConnectionAge: 50 * time.Millisecond, MaxConnectionAgeGrace: patience,
				}))
			})
		}
		p := w.startProxy(listed("hello"))
		await(t, "an instance that is ready for now", func() bool { return p.ready("hello") > 0 })
		load := p.startLoad("hello", 4)
		await(t, "ten connections that have ended", func() bool {
			return p.logs.FilterMessageSnippet("lost its connection").Len() >= 10
		})
		if calls, err := load.stop(); err != nil {
			t.Errorf("one of %d calls fails: %v", calls, err)
		}
	})
}

// A server that takes one call at a time gets one at a time; the others wait.
func TestBackendThatTakesOneCallAtATime(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		var running atomic.Int32
		w.startInstance("hello", "", 1, func(b *backend) { b.options = append(b.options, grpc.MaxConcurrentStreams(1)) },
			onHello(func(context.Context) error {
				defer running.Add(-1)
				if n := running.Add(1); n > 1 {
					return fmt.Errorf("%d calls at a time", n)
				}
				return nil
			}))
		p := w.startProxy(listed("hello"), func(cfg *configs.Config) { cfg.Relay.MaxEndpointConnections = 1 })
		p.awaitReady("hello", 1)
		load := p.startLoad("hello", 8)
		await(t, "200 calls", func() bool { return load.calls.Load() > 200 })
		if calls, err := load.stop(); err != nil {
			t.Errorf("one of %d calls fails: %v", calls, err)
		}
	})
}

// ready is how many instances of a service the proxy is connected to.
func (p *lbproxy) ready(service string) (n int) {
	for _, in := range p.service(service).Instances {
		if in.State == "ready" {
			n++
		}
	}
	return n
}

func (p *lbproxy) stateOf(service, addr string) string {
	for _, in := range p.service(service).Instances {
		if in.Addr == addr {
			return in.State
		}
	}
	return "gone"
}

func (p *lbproxy) awaitWeight(service, addr string, weight int) {
	p.t.Helper()
	await(p.t, fmt.Sprintf("weight %d of %s", weight, addr), func() bool {
		for _, in := range p.service(service).Instances {
			if in.Addr == addr {
				return in.Weight == weight
			}
		}
		return false
	})
}
