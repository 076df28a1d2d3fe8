//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery"
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

// protocolErrors are what a backend breaks its whole connection with.
var protocolErrors = []struct {
	name string
	does func(f *http2.Framer, stream uint32)
}{
	{"DATA on stream 0", func(f *http2.Framer, _ uint32) { f.WriteRawFrame(http2.FrameData, 0, 0, []byte("x")) }},
	{"HEADERS on stream 0", func(f *http2.Framer, _ uint32) {
		f.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 0, []byte{0x88})
	}},
	{"a field block that is none", func(f *http2.Framer, stream uint32) {
		f.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, stream, []byte{0xff, 0xff, 0xff, 0xff, 0xff})
	}},
	{"a frame that is too long", func(f *http2.Framer, stream uint32) {
		f.WriteRawFrame(http2.FrameData, 0, stream, make([]byte, mebibyte))
	}},
	{"a frame within a field block", func(f *http2.Framer, stream uint32) {
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte{0x88}})
		f.WritePing(false, [8]byte{})
	}},
	{"CONTINUATION of nothing", func(f *http2.Framer, stream uint32) { f.WriteContinuation(stream, true, []byte{0x88}) }},
	{"a window that exceeds its limit", func(f *http2.Framer, _ uint32) {
		f.WriteWindowUpdate(0, 1<<31-1)
		f.WriteWindowUpdate(0, 1<<31-1)
	}},
	{"a setting that there cannot be", func(f *http2.Framer, _ uint32) {
		f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
	}},
	{"SETTINGS that are cut short", func(f *http2.Framer, _ uint32) { f.WriteRawFrame(http2.FrameSettings, 0, 0, make([]byte, 5)) }},
	{"PUSH_PROMISE", func(f *http2.Framer, stream uint32) {
		f.WritePushPromise(http2.PushPromiseParam{StreamID: stream, PromiseID: 2, BlockFragment: []byte{0x82}, EndHeaders: true})
	}},
	{"an answer to a call that never was", func(f *http2.Framer, stream uint32) { writeHeaders(f, stream+1000, false, ":status", "200") }},
}

// A backend that breaks HTTP/2 for its whole connection has its calls there end with INTERNAL, and no others.
func TestBackendsThatBreakTheirConnection(t *testing.T) {
	w := newWorld(t, engine{name: configs.EngineRelay})
	w.startInstance("hello", "", 1)
	p := w.startBinary()
	for i, c := range protocolErrors {
		t.Run(c.name, func(t *testing.T) {
			const calls = 3
			service, arrived := fmt.Sprint("broken-", i), 0
			addr := listenHostile(t, func(conn net.Conn) {
				rude(func(f *http2.Framer, stream uint32) {
					if arrived++; arrived == calls { // on one connection, so of one goroutine
						c.does(f, stream)
					}
				})(conn)
			})
			w.startRegistrar(w.client, service, discovery.Instance{Addr: addr, Weight: 1})
			p.harmsNobodyElse(t, func() {
				cc := dial(t, "passthrough:///"+p.calls, grpc.WithAuthority(service))
				var all errgroup.Group
				for range calls {
					all.Go(func() error {
						_, err := sayHello(within(t), cc)
						if status.Code(err) != codes.Internal || reasonOf(err) != string(proxy.BackendProtocol) {
							return fmt.Errorf("a call ends by %w, reason %q", err, reasonOf(err))
						}
						return nil
					})
				}
				if err := all.Wait(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A caller's many uploads leave others their share of the connection to the backend, whether the backend reads them
// or not.
func TestUploadsLeaveOthersTheirShare(t *testing.T) {
	for name, reads := range map[string]bool{"backend reads": true, "backend does not read": false} {
		t.Run(name, func(t *testing.T) {
			const uploads = stormStreams / 5
			w := newWorld(t, engine{name: configs.EngineRelay})
			var begun, received atomic.Int64
			w.startInstance("hello", "", 1, onAnyMethod(func(s grpc.ServerStream) error {
				begun.Add(1)
				for reads {
					var message []byte
					if err := s.RecvMsg(&message); err != nil {
						return err
					}
					received.Add(1)
				}
				<-s.Context().Done()
				return s.Context().Err()
			}))
			p := w.startBinary()
			p.serves(t, func() {
				ctx, cancel := context.WithCancel(t.Context())
				cc := p.dial(t, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
				var all errgroup.Group
				for range uploads {
					all.Go(func() error { return upload(ctx, cc) })
				}
				await(t, "all uploads at the backend", func() bool { return begun.Load() == uploads })
				if reads {
					seen := received.Load()
					await(t, "uploads that go on", func() bool { return received.Load() > seen+uploads })
				}
				other := p.dial(t)
				for range 50 {
					if err := greetSoon(other); err != nil {
						t.Fatal(err)
					}
				}
				cancel()
				if err := all.Wait(); err != nil {
					t.Error(err)
				}
			})
			await(t, "end of the calls", func() bool { return p.inFlight(t) == 0 })
		})
	}
}

// upload sends until it is cancelled. It fails if the call ends in another way.
func upload(ctx context.Context, cc *grpc.ClientConn) error {
	much := make([]byte, 64<<10)
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/e2e.Flood/Upload")
	for err == nil {
		err = stream.SendMsg(&much)
	}
	if stream != nil {
		err = stream.RecvMsg(&much)
	}
	if status.Code(err) == codes.Canceled {
		return nil
	}
	return fmt.Errorf("an upload ends by %w", err)
}

// onAnyMethod has a backend answer calls of raw messages, of any method that it does not know.
func onAnyMethod(do func(grpc.ServerStream) error) func(*backend) {
	return func(b *backend) {
		b.options = []grpc.ServerOption{
			grpc.ForceServerCodecV2(protoOrRaw{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error { return do(s) }),
			grpc.WaitForHandlers(true),
		}
	}
}

// protoOrRaw is a codec of both messages that are protobuf and messages that are bytes.
type protoOrRaw struct{ rawCodec }

func (c protoOrRaw) Marshal(v any) (mem.BufferSlice, error) {
	if _, raw := v.(*[]byte); raw {
		return c.rawCodec.Marshal(v)
	}
	return encoding.GetCodecV2(encodingproto.Name).Marshal(v)
}

func (c protoOrRaw) Unmarshal(data mem.BufferSlice, v any) error {
	if _, raw := v.(*[]byte); raw {
		return c.rawCodec.Unmarshal(data, v)
	}
	return encoding.GetCodecV2(encodingproto.Name).Unmarshal(data, v)
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

// seen is how many calls of a service there have been, and are, by the metrics.
func (p *process) seen(t *testing.T, service string) (n float64) {
	t.Helper()
	_, page := get(t, "http://"+p.admin+"/metrics")
	for series, value := range parseMetrics(t, page) {
		family, labels, _ := strings.Cut(series, "{")
		if (family == "lbproxy_calls_total" || family == "lbproxy_calls_in_flight") && strings.Contains(labels, fmt.Sprintf("service=%q", service)) {
			n += value
		}
	}
	return n
}

// failed is how many calls the proxy has failed for a reason, by the metrics.
func (p *process) failed(t *testing.T, why proxy.Reason) float64 {
	t.Helper()
	_, page := get(t, "http://"+p.admin+"/metrics")
	total := 0.0
	for series, n := range parseMetrics(t, page) {
		if strings.HasPrefix(series, fmt.Sprintf("lbproxy_errors_total{reason=%q,", why)) {
			total += n
		}
	}
	return total
}

// mustNotHaveGrown fails the test if the process has taken more than calls may have it hold.
func (p *process) mustNotHaveGrown(t *testing.T, before int64) {
	t.Helper()
	grown := p.peak(t) - before
	t.Logf("the process has grown by %d MiB", grown/mebibyte)
	if grown > memoryBudget+memoryMargin {
		t.Errorf("that is more than %d MiB", (memoryBudget+memoryMargin)/mebibyte)
	}
}

// cpu is how much the process has used.
func (p *process) cpu(t *testing.T) time.Duration {
	t.Helper()
	_, page := get(t, "http://"+p.admin+"/metrics")
	return time.Duration(parseMetrics(t, page)["process_cpu_seconds_total"] * float64(time.Second))
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
