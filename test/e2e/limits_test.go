//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/proxy"
)

// memoryBudget is what calls may have the relay hold, by default; memoryMargin is what it may take beside that: garbage,
// the system's pages, and the peers' connections themselves.
const (
	memoryBudget = 256 * mebibyte
	memoryMargin = 128 * mebibyte
)

// Answers without end that a caller's windows do not let through are not held without bounds.
func TestStreamsStalledOnZeroWindow(t *testing.T) {
	w := newWorld(t, engine{name: configs.EngineRelay})
	var sent atomic.Int64
	w.startInstance("hello", "", 1, onAnyMethod(func(s grpc.ServerStream) error {
		much := make([]byte, 64<<10)
		for {
			if err := s.SendMsg(&much); err != nil {
				return err
			}
			sent.Add(1)
		}
	}))
	p := w.startBinary()
	before := p.resetPeak(t)
	p.serves(t, func() {
		caller := newPeer(t, p.calls, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		for range 600 {
			caller.ask(caller.call("hello", "/e2e.Flood/Flood"), true)
		}
		caller.Flush()
		await(t, "answers on all streams, or the end of the connection", func() bool { return sent.Load() > 600 || caller.hasEnded() })
		awaitRest(t, "backend that is held up", sent.Load)
		p.mustNotHaveGrown(t, before)
		caller.conn.Close()
	})
	await(t, "end of the calls", func() bool { return p.inFlight(t) == 0 })
}

// Calls that wait, and whose fields are small on the wire and large when decoded, are not held without bounds.
func TestHoardedFields(t *testing.T) {
	w := newWorld(t, engine{name: configs.EngineRelay})
	w.startInstance("hello", "", 1)
	w.startBusy(1)
	p := w.startBinary()
	before := p.resetPeak(t)
	p.serves(t, func() {
		const calls = 1000
		caller := newPeer(t, p.calls)
		for range calls {
			block := caller.call("busy", "/helloworld.Greeter/SayHello", "name", strings.Repeat("x", 30))
			caller.ask(append(block, strings.Repeat("\xbe", 15_000)...), true) // 15,000 times the field that came last
		}
		caller.Flush()
		await(t, "all calls, or the end of the connection", func() bool { return p.seen(t, "busy") == calls || caller.hasEnded() })
		caller.conn.Close()
		await(t, "end of the calls", func() bool { return p.inFlight(t) <= 1 }) // one is the bystander's
	})
	p.mustNotHaveGrown(t, before)
}

// A container of 256 MiB is enough for a budget of 96 if Go is told, as in configs/kubernetes/daemonset.yaml.
func TestMemoryBesideTheBudget(t *testing.T) {
	const budget, container = 96, 256
	t.Setenv("GOMEMLIMIT", "208MiB")
	w := newWorld(t, engine{name: configs.EngineRelay})
	w.startInstance("hello", "", 1, onAnyMethod(func(s grpc.ServerStream) error {
		<-s.Context().Done() // it reads nothing
		return nil
	}))
	w.startBusy(1)
	config := filepath.Join(t.TempDir(), "lbproxy.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "relay: {memory_mib: %d}\n", budget), 0o600); err != nil {
		t.Fatal(err)
	}
	p := w.startBinary("--config", config)
	p.resetPeak(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cc := p.dial(t, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
	var uploads sync.WaitGroup
	for range 2 * budget * 16 { // of windows of 64 KiB: twice the budget
		uploads.Go(func() { _ = upload(ctx, cc) })
	}
	caller := newPeer(t, p.calls)
	for range 1000 {
		block := caller.call("busy", "/helloworld.Greeter/SayHello", "name", strings.Repeat("x", 30))
		caller.ask(append(block, strings.Repeat("\xbe", 15_000)...), true)
	}
	caller.Flush()
	await(t, "calls that end because the memory is used up", func() bool { return p.failed(t, proxy.Limit) > 0 })
	cancel()
	uploads.Wait()
	greet(t, p.dial(t), 1)
	took := p.peak(t)
	t.Logf("the process took %d MiB", took/mebibyte)
	if took > container*mebibyte {
		t.Errorf("that is more than %d MiB", container)
	}
}

// floods are what a caller's connection must end for, with ENHANCE_YOUR_CALM.
var floods = []struct {
	name   string
	attack func(*peer)
}{
	{"rapid reset with a byte of DATA", func(p *peer) {
		for range 100_000 {
			id := p.open(false)
			p.WriteData(id, false, []byte{0})
			p.WriteRSTStream(id, http2.ErrCodeCancel)
		}
	}},
	{"PING", flood(func(p *peer) { p.WritePing(false, [8]byte{}) })},
	{"stream errors", func(p *peer) {
		for range 100_000 {
			p.WriteWindowUpdate(p.open(true), 1<<31-1)
		}
	}},
	{"WINDOW_UPDATE", func(p *peer) {
		id := p.open(false)
		for range 100_000 {
			p.WriteWindowUpdate(id, 1)
		}
	}},
}

func TestFloods(t *testing.T) {
	w := newWorld(t, engine{name: configs.EngineRelay})
	w.startInstance("hello", "", 1)
	p := w.startBinary()
	for _, f := range floods {
		t.Run(f.name, func(t *testing.T) {
			p.harmsNobodyElse(t, func() {
				caller := newPeer(t, p.calls)
				f.attack(caller)
				caller.Flush()
				caller.mustEnd(calm)
			})
		})
	}
}

// A connection whose fields blow up when decoded ends before much time goes into decoding them.
func TestFieldsThatBlowUp(t *testing.T) {
	w := newWorld(t, engine{name: configs.EngineRelay})
	w.startInstance("hello", "", 1)
	p := w.startBinary()
	p.harmsNobodyElse(t, func() {
		before := p.cpu(t)
		caller := newPeer(t, p.calls)
		block := caller.bomb() // 36 MB
		for range 1000 {
			caller.ask(block, true)
		}
		caller.Flush()
		caller.mustEnd(calm)
		if took := p.cpu(t) - before; took > 500*time.Millisecond {
			t.Errorf("it took %s of CPU", took)
		}
	})
}

// A caller that goes away holds up nobody with the many calls that it had waiting.
func TestWaitingCallsEndAtOnce(t *testing.T) {
	w := newWorld(t, engine{name: configs.EngineRelay})
	w.startInstance("hello", "", 1)
	w.startBusy(1)
	p := w.startBinary()
	p.serves(t, func() {
		const connections, calls = 11, 9_000 // 99,000 in all
		var callers []*peer
		for range connections {
			caller := newPeer(t, p.calls)
			for range calls {
				caller.ask(caller.request("busy"), false)
			}
			caller.Flush()
			callers = append(callers, caller)
		}
		await(t, "waiting calls", func() bool { return p.inFlight(t) >= connections*calls })
		start := time.Now()
		for _, caller := range callers {
			caller.conn.Close()
		}
		await(t, "end of the calls", func() bool { return p.inFlight(t) <= 1 }) // one is the bystander's
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("the calls end within %s", took)
		}
	})
}

// startBusy starts an instance of "busy", which takes n calls on a connection and never answers.
func (w *world) startBusy(n uint32) {
	w.startInstance("busy", "", 1, func(b *backend) { b.options = append(b.options, grpc.MaxConcurrentStreams(n)) },
		onHello(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))
}

// call is the field block of a call of a method.
func (p *peer) call(service, method string, more ...string) []byte {
	return p.fields(append([]string{
		":method", "POST", ":scheme", "http", ":path", method, ":authority", service, "content-type", "application/grpc",
		"te", "trailers",
	}, more...)...)
}

// ask begins a call of these fields.
func (p *peer) ask(block []byte, whole bool) {
	p.WriteHeaders(http2.HeadersFrameParam{StreamID: p.nextID, BlockFragment: block, EndHeaders: true, EndStream: whole})
	p.nextID += 2
}

func (p *peer) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// awaitRest waits until a number stays the same for a second.
func awaitRest(t *testing.T, what string, number func() int64) {
	t.Helper()
	last, since := number(), time.Now()
	await(t, what, func() bool {
		if n := number(); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > time.Second
	})
}
