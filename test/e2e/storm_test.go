//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/proxy"
)

// Many streams at a time, all of which converse.
func TestManyStreams(t *testing.T) {
	aloneOnEveryEngine(t, func(t *testing.T, w *world) {
		const connections = 100
		in := w.startInstance("hello", "", 1)
		p := w.startBinary()
		greet(t, p.dial(t), 1) // while etcd is not busy yet
		var opened errgroup.Group
		streams := make([]conversation, stormStreams)
		for c := range connections {
			cc := p.dial(t)
			opened.Go(func() error {
				for i := c; i < stormStreams; i += connections {
					var err error
					if streams[i], err = converse(within(t), cc, "/e2e.Talk/Converse"); err != nil {
						return err
					}
					if addr, err := streams[i].ask(); err != nil || addr != in.addr {
						return fmt.Errorf("answered by %q: %w", addr, err)
					}
				}
				return nil
			})
		}
		if err := opened.Wait(); err != nil {
			t.Fatal(err)
		}
		if n := p.inFlight(t); n != stormStreams {
			t.Errorf("%v calls in flight, want %d", n, stormStreams)
		}

		var talked errgroup.Group
		talked.SetLimit(connections)
		for _, s := range streams {
			talked.Go(func() error {
				if _, err := s.ask(); err != nil {
					return err
				}
				return s.end()
			})
		}
		if err := talked.Wait(); err != nil {
			t.Error(err)
		}
		await(t, "end of all calls in the metrics", func() bool { return p.inFlight(t) == 0 })
	})
}

// Calls that are cancelled at any moment leave nothing behind: not in the proxy, not at the backend.
func TestCancelStorm(t *testing.T) {
	aloneOnEveryEngine(t, func(t *testing.T, w *world) {
		var running, arrived atomic.Int64
		w.startInstance("hello", "", 1, onHello(func(ctx context.Context) error {
			arrived.Add(1)
			running.Add(1)
			defer running.Add(-1)
			<-ctx.Done()
			return ctx.Err()
		}))
		p := w.startBinary()
		var ccs []*grpc.ClientConn
		for range 100 { // one alone may not cancel so much in so short a time
			cc := p.dial(t)
			cc.Connect()
			ccs = append(ccs, cc)
		}
		for _, cc := range ccs {
			await(t, "connection", func() bool { return cc.GetState() == connectivity.Ready })
		}
		storm := func(calls int) {
			var storm errgroup.Group
			storm.SetLimit(128)
			for i := range calls {
				storm.Go(func() error { return cancelled(ccs[i%len(ccs)], rand.N(5*time.Millisecond)) })
			}
			if err := storm.Wait(); err != nil {
				t.Error(err)
			}
			await(t, "end of all calls at the backend", func() bool { return running.Load() == 0 })
			await(t, "end of all calls in the metrics", func() bool { return p.inFlight(t) == 0 })
		}
		storm(stormCancels / 10) // after which all buffers and pools are as large as they get
		before := p.leftovers(t)
		storm(stormCancels)
		var after leftovers
		await(t, "proxy as it was before", func() bool {
			after = p.leftovers(t)
			return after.goroutines <= before.goroutines+10 && after.files <= before.files+2
		})
		t.Logf("%+v before, %+v after, %d calls at the backend", before, after, arrived.Load())
		if n := arrived.Load(); n < stormCancels/100 {
			t.Errorf("only %d calls reach the backend before they are cancelled", n)
		}
		for what, grown := range map[string]float64{"heap": after.heap - before.heap, "resident memory": after.resident - before.resident} {
			if grown > stormGrowth[w.engine.name] {
				t.Errorf("the %s has grown by %.1f MiB", what, grown/mebibyte)
			}
		}
	})
}

// stormGrowth is by how much the memory of a proxy may differ before and after storms: garbage that is not collected
// or not given back yet. It is 168 bytes for each cancelled call of the relay.
var stormGrowth = map[string]float64{configs.EngineRelay: 16 * mebibyte, configs.EngineGRPCProxy: 80 * mebibyte}

// cancelled makes a call and gives it up after some time. It fails if the call ends in another way.
func cancelled(cc *grpc.ClientConn, after time.Duration) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer time.AfterFunc(after, cancel).Stop()
	if _, err := sayHello(ctx, cc); status.Code(err) != codes.Canceled {
		return fmt.Errorf("a cancelled call ends by %w", err)
	}
	return nil
}

// Messages much larger than any window go both ways at a time and arrive whole.
func TestLargeMessagesBothWays(t *testing.T) {
	aloneOnEveryEngine(t, func(t *testing.T, w *world) {
		const calls, size = 16, 10 * mebibyte
		w.startInstance("hello", "", 1, func(b *backend) {
			b.options = []grpc.ServerOption{
				grpc.UnknownServiceHandler(echoRaw), grpc.ForceServerCodecV2(rawCodec{}), grpc.MaxRecvMsgSize(2 * size), grpc.WaitForHandlers(true),
			}
		})
		p := w.startBinary()
		cc := p.dial(t, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(2*size)))
		echo := func(seed, size int) error {
			sent, got := make([]byte, size), []byte(nil)
			rand.NewChaCha8([32]byte{byte(seed)}).Read(sent)
			if err := cc.Invoke(within(t), "/e2e.Echo/Echo", &sent, &got); err != nil {
				return err
			}
			if !bytes.Equal(sent, got) {
				return fmt.Errorf("%d bytes were sent, %d others came back", len(sent), len(got))
			}
			return nil
		}
		if err := echo(0, 1); err != nil { // while etcd is not busy yet
			t.Fatal(err)
		}
		var all errgroup.Group
		for i := range calls {
			all.Go(func() error { return echo(i, size) })
		}
		if err := all.Wait(); err != nil {
			t.Error(err)
		}
	})
}

func echoRaw(_ any, stream grpc.ServerStream) error {
	var message []byte
	if err := stream.RecvMsg(&message); err != nil {
		return err
	}
	return stream.SendMsg(&message)
}

// A backend whose process dies under load takes only the calls with it that it has.
func TestKilledBackendLosesOnlyItsCalls(t *testing.T) {
	aloneOnEveryEngine(t, func(t *testing.T, w *world) {
		const callers = 16
		w.startInstance("hello", "", 1)
		victim := startBackendProcess(t)
		w.startRegistrar(w.client, "hello", discovery.Instance{Addr: victim.addr, Weight: 1})
		p := w.startBinary()
		cc := p.dial(t)
		await(t, "answer of the victim", func() bool { return greet(t, cc, 1)[victim.addr] == 1 })

		var streams []conversation
		for range 100 {
			s, err := converse(within(t), cc, "/e2e.Talk/Converse")
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, s)
		}
		where := make([]string, len(streams))
		for i, s := range streams {
			var err error
			if where[i], err = s.ask(); err != nil {
				t.Fatal(err)
			}
		}

		var load errgroup.Group
		var calls, lost atomic.Int64
		ctx, stop := context.WithCancel(t.Context())
		for range callers {
			load.Go(func() error { // ends by stop, or by a failure that must not be
				for ctx.Err() == nil {
					calls.Add(1)
					_, err := sayHello(within(t), cc)
					switch {
					case err == nil:
					case reasonOf(err) == string(proxy.BackendLost) && status.Code(err) == codes.Unavailable:
						lost.Add(1)
					default:
						return err
					}
				}
				return nil
			})
		}
		await(t, "load", func() bool { return calls.Load() > 500 })
		victim.kill()
		atKill := calls.Load()
		await(t, "load after the kill", func() bool { return calls.Load() > atKill+500 })
		stop()
		if err := load.Wait(); err != nil {
			t.Error(err)
		}
		if n := lost.Load(); n > callers {
			t.Errorf("%d calls are lost, but only %d ran at a time", n, callers)
		}
		for i, s := range streams {
			_, err := s.ask()
			if where[i] != victim.addr && err != nil || where[i] == victim.addr && reasonOf(err) != string(proxy.BackendLost) {
				t.Errorf("a stream at %s ends by %v when %s is killed", where[i], err, victim.addr)
			}
		}
	})
}

// All backends are replaced, one after the other, under load, each gracefully. No call fails, whether the
// registration ends first, as it should, or the backend does.
func TestRollingRestart(t *testing.T) {
	work := onHello(func(ctx context.Context) error {
		select {
		case <-time.After(rand.N(10 * time.Millisecond)): // what a call takes
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	for name, leave := range map[string]func(*instance){
		"deregistered, then stopped": func(in *instance) { in.deregister(); in.GracefulStop() },
		"stopped, then deregistered": func(in *instance) { in.GracefulStop(); in.deregister() },
	} {
		t.Run(name, func(t *testing.T) {
			aloneOnEveryEngine(t, func(t *testing.T, w *world) {
				var instances []*instance
				for range 4 {
					instances = append(instances, w.startInstance("hello", "", 1, work))
				}
				p := w.startBinary()
				load := startLoad(t, 16, p.dial(t), p.dial(t), p.dial(t), p.dial(t))
				awaitReady(t, p.admin, "hello", len(instances))
				for range 5 {
					for i, old := range instances {
						leave(old)
						<-old.ended
						awaitReady(t, p.admin, "hello", len(instances)-1)
						instances[i] = w.register(startBackend(t, work, at(old.addr)), "hello", "", 1)
						awaitReady(t, p.admin, "hello", len(instances))
					}
				}
				calls, err := load.stop()
				if err != nil {
					t.Errorf("one of %d calls fails: %v", calls, err)
				}
				t.Logf("%d calls", calls)
			})
		})
	}
}

// backendProcess is a backend in a process of its own.
type backendProcess struct {
	*exec.Cmd
	addr string
}

const backendProcessAddr = "LBPROXY_E2E_BACKEND"

// startBackendProcess starts a backend that runs until the test ends, or until it is killed.
func startBackendProcess(t *testing.T) *backendProcess {
	t.Helper()
	b := &backendProcess{addr: newAddr(t), Cmd: exec.Command(os.Args[0], "-test.run", "^TestBackendProcess$", "-test.v")}
	b.Env = append(os.Environ(), backendProcessAddr+"="+b.addr, "TMPDIR="+t.TempDir())
	stdin, err := b.StdinPipe() // it ends with us, whatever happens to us
	if err != nil {
		t.Fatal(err)
	}
	out, err := b.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		b.kill()
	})
	for said := bufio.NewScanner(out); said.Scan(); {
		if said.Text() == backendListens {
			return b
		}
	}
	t.Fatal("the backend's process does not start")
	return nil
}

// kill does what kill -9 does. Killing again does nothing.
func (b *backendProcess) kill() {
	b.Process.Kill()
	b.Wait()
}

const backendListens = "the backend listens"

// TestBackendProcess is no test but the process of startBackendProcess.
func TestBackendProcess(t *testing.T) {
	addr := os.Getenv(backendProcessAddr)
	if addr == "" {
		t.Skip("it is run by other tests")
	}
	startBackend(t, at(addr))
	fmt.Println(backendListens)
	io.Copy(io.Discard, os.Stdin)
}
