//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/proxy"
)

// hostileBackends break HTTP/2, or make the proxy work without end. Their own calls must fail, and no others.
var hostileBackends = []struct {
	name  string
	serve func(net.Conn)
	code  codes.Code
	why   proxy.Reason // empty: the proxy has no part in it
}{
	{"garbage instead of SETTINGS", func(c net.Conn) {
		io.Copy(c, io.LimitReader(endless("garbage\n"), mebibyte))
	}, codes.Unavailable, proxy.NoReadyEndpoint},
	{"nothing instead of SETTINGS", func(c net.Conn) {
		io.Copy(io.Discard, c)
	}, codes.Unavailable, proxy.NoReadyEndpoint},
	{"DATA before HEADERS", rude(func(f *http2.Framer, stream uint32) {
		f.WriteData(stream, false, []byte("early"))
	}), codes.Internal, proxy.BackendProtocol},
	{"fields without :status", rude(func(f *http2.Framer, stream uint32) {
		writeHeaders(f, stream, false, "content-type", "application/grpc")
	}), codes.Internal, proxy.BackendProtocol},
	{"a stream's window that exceeds its limit", rude(func(f *http2.Framer, stream uint32) {
		writeHeaders(f, stream, false, ":status", "200", "content-type", "application/grpc")
		f.WriteWindowUpdate(stream, 1<<31-1)
	}), codes.Internal, proxy.BackendProtocol},
	{"a message that never ends", rude(func(f *http2.Framer, stream uint32) {
		writeHeaders(f, stream, false, ":status", "200", "content-type", "application/grpc")
		f.WriteData(stream, false, []byte{0, 0x7f, 0xff, 0xff, 0xff})
		for f.WriteData(stream, false, make([]byte, 16<<10)) == nil {
		}
	}), codes.ResourceExhausted, ""}, // the caller's limit
	{"does not answer", rude(func(*http2.Framer, uint32) {}), codes.DeadlineExceeded, ""},
	{"does not read", func(c net.Conn) {
		f := http2.NewFramer(c, c)
		f.WriteSettings()
		io.ReadFull(c, make([]byte, len(http2.ClientPreface)))
		hold(c)
	}, codes.DeadlineExceeded, ""},
}

// brokenConnections are what a hostile backend does to a whole connection. Calls end with it.
var brokenConnections = []struct {
	name string
	does func(f *http2.Framer, stream uint32)
}{
	{"CONTINUATION without end", func(f *http2.Framer, stream uint32) {
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte{0x88}})
		for f.WriteContinuation(stream, false, bytes.Repeat([]byte{0x88}, 10_000)) == nil {
		}
	}},
	{"a window that exceeds its limit", func(f *http2.Framer, _ uint32) {
		f.WriteWindowUpdate(0, 1<<31-1)
		f.WriteWindowUpdate(0, 1<<31-1)
	}},
	{"PUSH_PROMISE", func(f *http2.Framer, stream uint32) {
		f.WritePushPromise(http2.PushPromiseParam{StreamID: stream, PromiseID: 2, BlockFragment: []byte{0x82}, EndHeaders: true})
	}},
	{"a frame on a stream that was never opened", func(f *http2.Framer, stream uint32) {
		writeHeaders(f, stream+1000, false, ":status", "200")
	}},
	{"SETTINGS without end", func(f *http2.Framer, _ uint32) {
		for f.WriteSettings() == nil {
		}
	}},
	{"PING without end", func(f *http2.Framer, _ uint32) {
		for f.WritePing(false, [8]byte{}) == nil {
		}
	}},
}

func TestHostileBackends(t *testing.T) { // alone: its bystanders' calls have a bound of time
	w := newWorld(t, engine{name: configs.EngineRelay})
	w.startInstance("hello", "", 1)
	p := w.startBinary()
	for i, h := range hostileBackends {
		t.Run(h.name, func(t *testing.T) {
			err := w.callHostile(t, p, fmt.Sprintf("hostile-%d", i), h.serve)
			if status.Code(err) != h.code {
				t.Errorf("the call ends by %v, want %s", err, h.code)
			}
			if h.why != "" && reasonOf(err) != string(h.why) {
				t.Errorf("the call ends by %v, reason %q, want %q", err, reasonOf(err), h.why)
			}
		})
	}
	for i, h := range brokenConnections {
		t.Run(h.name, func(t *testing.T) {
			err := w.callHostile(t, p, fmt.Sprintf("broken-%d", i), rude(h.does))
			if r := reasonOf(err); r != string(proxy.BackendLost) && r != string(proxy.BackendProtocol) {
				t.Errorf("the call ends by %v, reason %q", err, r)
			}
		})
	}
}

// callHostile registers a hostile backend, and returns how a call to it ends, which must harm no others.
func (w *world) callHostile(t *testing.T, p *process, service string, serve func(net.Conn)) (err error) {
	t.Helper()
	w.startRegistrar(w.client, service, discovery.Instance{Addr: listenHostile(t, serve), Weight: 1})
	p.harmsNobodyElse(t, func() {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err = sayHello(ctx, dial(t, "passthrough:///"+p.calls, grpc.WithAuthority(service)))
	})
	return err
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

// Where a backend breaks HTTP/2 for a whole connection, the calls on it end with INTERNAL, and no others.
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

// hold returns when c is closed at this end, and until then neither reads nor writes.
func hold(c net.Conn) {
	if raw, err := c.(syscall.Conn).SyscallConn(); err == nil {
		_ = raw.Read(func(uintptr) bool { return false }) // whatever comes, wait for more
	}
}

// listenHostile is listenRaw for connections that need not have ended when the test does.
func listenHostile(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	ended := make(chan struct{})
	addr := listenRaw(t, func(c net.Conn) {
		served := make(chan struct{})
		go func() { // ends with serve, or with the test
			select {
			case <-ended:
				c.Close()
			case <-served:
			}
		}()
		defer close(served)
		serve(c)
	})
	t.Cleanup(func() { close(ended) })
	return addr
}

// endless says the same for ever.
type endless string

func (e endless) Read(b []byte) (n int, err error) {
	for n < len(b) {
		n += copy(b[n:], e)
	}
	return n, nil
}
