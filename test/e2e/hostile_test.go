//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"

	"github.com/lbproxy/lbproxy/configs"
)

const (
	// mebibyte is what memory is counted in here.
	mebibyte = 1 << 20
	// hostileGrowth is by how much one hostile peer may make the process grow, garbage included.
	hostileGrowth = 128 * mebibyte
	// bystanderPatience is how long a call may take that has nothing to do with the hostile peer, on a quiet machine.
	bystanderPatience = 2 * time.Second
)

// hostileCallers each do on a connection what no caller needs to. The connection must end as the RFC says, and
// only that one.
var hostileCallers = []struct {
	name   string
	attack func(*peer)
	ends   []http2.ErrCode // one of them; none: without a word
}{
	{"rapid reset", func(p *peer) {
		for range 100_000 {
			id := p.open(true)
			p.WriteRSTStream(id, http2.ErrCodeCancel)
		}
	}, calm},
	{"resets of what is half done", func(p *peer) {
		for range 100_000 {
			id := p.open(false)
			p.WriteRSTStream(id, http2.ErrCodeCancel)
		}
	}, calm},
	{"CONTINUATION without end", func(p *peer) {
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.request("hello")})
		filler := p.fields("filler", strings.Repeat("x", 10_000))
		for range 100_000 {
			p.WriteContinuation(1, false, filler)
		}
	}, calm},
	{"empty CONTINUATION without end", func(p *peer) {
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.request("hello")})
		for range 100_000 {
			p.WriteContinuation(1, false, nil)
		}
	}, calm},
	{"fields that blow up when decoded, without end", func(p *peer) {
		block := p.bomb()
		for id := uint32(1); id < 40_000; id += 2 {
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: true})
		}
	}, calm},
	{"SETTINGS", flood(func(p *peer) { p.WriteSettings() }), calm},
	{"SETTINGS that change windows of many streams", func(p *peer) {
		for range 1_000 {
			p.open(false)
		}
		for i := range uint32(50_000) {
			p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: i % 2})
		}
	}, calm},
	{"acknowledgements of SETTINGS", flood(func(p *peer) { p.WriteSettingsAck() }), calm},
	{"PRIORITY", flood(func(p *peer) { p.WritePriority(1, http2.PriorityParam{StreamDep: 3}) }), calm},
	{"unknown frames", flood(func(p *peer) { p.WriteRawFrame(0xbe, 0, 0, nil) }), calm},
	{"empty DATA", func(p *peer) {
		id := p.open(false)
		for range 100_000 {
			p.WriteData(id, false, nil)
		}
	}, calm},
	{"a window that exceeds its limit", func(p *peer) {
		p.WriteWindowUpdate(0, 1<<31-1)
		p.WriteWindowUpdate(0, 1<<31-1)
	}, []http2.ErrCode{http2.ErrCodeFlowControl}},
	{"a frame that is too long", func(p *peer) {
		p.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 1<<20))
	}, []http2.ErrCode{http2.ErrCodeFrameSize}},
	{"HPACK that is none", func(p *peer) {
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true})
	}, []http2.ErrCode{http2.ErrCodeCompression}},
	{"DATA on a stream that was never opened", func(p *peer) {
		p.WriteData(99, true, []byte("x"))
	}, []http2.ErrCode{http2.ErrCodeProtocol, http2.ErrCodeStreamClosed}},
	{"garbage behind the preface", func(p *peer) {
		random := rand.NewChaCha8([32]byte{1})
		io.CopyN(p.Writer, random, 1<<20)
	}, []http2.ErrCode{http2.ErrCodeFrameSize, http2.ErrCodeProtocol, http2.ErrCodeFlowControl, http2.ErrCodeCompression}},
}

// calm is how floods end.
var calm = []http2.ErrCode{http2.ErrCodeEnhanceYourCalm}

func flood(one func(*peer)) func(*peer) {
	return func(p *peer) {
		for range 100_000 {
			one(p)
		}
	}
}

func TestHostileCallers(t *testing.T) { // alone: its bystanders' calls have a bound of time
	w := newWorld(t, engine{name: configs.EngineRelay})
	w.startInstance("hello", "", 1)
	b := w.startBinary()
	for _, c := range hostileCallers {
		t.Run(c.name, func(t *testing.T) {
			b.harmsNobodyElse(t, func() {
				p := newPeer(t, b.calls)
				c.attack(p)
				p.Flush()
				p.mustEnd(c.ends)
			})
		})
	}
}

// What is no HTTP/2 from the start harms nobody.
func TestCallersThatDoNotSpeakHTTP2(t *testing.T) {
	t.Parallel()
	w := newWorld(t, engine{name: configs.EngineRelay})
	w.startInstance("hello", "", 1)
	b := w.startBinary()
	for _, says := range []string{
		"GET / HTTP/1.1\r\nHost: hello\r\n\r\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", // the beginning of TLS
		"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n",
		strings.Repeat("\x00", 1<<20),
	} {
		t.Run(fmt.Sprintf("%.12q", says), func(t *testing.T) {
			b.harmsNobodyElse(t, func() {
				c := mustDial(t, b.calls)
				go io.WriteString(c, says) // ends when the proxy closes the connection
				c.SetReadDeadline(time.Now().Add(patience))
				if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the connection stays open")
				}
			})
		})
	}
}

// harmsNobodyElse lets a hostile peer act. Meanwhile other callers' calls must succeed, and the process must not grow.
func (p *process) harmsNobodyElse(t *testing.T, act func()) {
	t.Helper()
	before := p.resetPeak(t)
	p.serves(t, act)
	if grown := p.peak(t) - before; grown > hostileGrowth {
		t.Errorf("the process has grown by %d MiB", grown/mebibyte)
	}
}

// serves does something while another caller makes calls, on connections old and new, which must all succeed, and
// soon, by the measure of calls that reach the instance without the proxy at the same time.
func (p *process) serves(t *testing.T, while func()) {
	t.Helper()
	cc := p.dial(t)
	instance, err := sayHello(within(t), cc)
	if err != nil {
		t.Fatal(err)
	}
	proxied, direct := newBystander(cc), newBystander(dial(t, "passthrough:///"+instance))
	defer proxied.stop() // when the test is given up, too
	defer direct.stop()
	while()
	proxied.stop()
	direct.stop()
	renewed := newBystander(p.dial(t))
	renewed.stop()
	for what, b := range map[string]*bystander{"another": proxied, "a new": renewed} {
		if b.err != nil {
			t.Errorf("a call of %s connection: %v", what, b.err)
		}
		if b.slowest > bystanderPatience+4*direct.slowest {
			t.Errorf("a call of %s connection took %s, one without the proxy %s at most", what, b.slowest, direct.slowest)
		}
	}
	if p.hasExited() {
		t.Fatal("the process has ended")
	}
}

// bystander is a caller that makes one call after the other, at least one, until it is stopped or one fails.
type bystander struct {
	stop func()

	// After stop:
	slowest time.Duration
	err     error
}

func newBystander(cc grpc.ClientConnInterface) *bystander {
	b := &bystander{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { // ends by stop
		defer close(ended)
		for once := true; b.err == nil && (once || ctx.Err() == nil); once = false {
			b.call(cc)
			time.Sleep(time.Millisecond) // a caller, not a load
		}
	}()
	b.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	return b
}

func (b *bystander) call(cc grpc.ClientConnInterface) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	start := time.Now()
	_, b.err = sayHello(ctx, cc)
	b.slowest = max(b.slowest, time.Since(start))
}

func mustDial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Callers that say nothing, or not all that comes before the first call, are let go.
func TestHalfOpenCallers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, engine{name: configs.EngineRelay})
	b := w.startBinary()
	for name, says := range map[string]string{
		"nothing": "", "half of the preface": http2.ClientPreface[:10], "no SETTINGS": http2.ClientPreface,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := mustDial(t, b.calls)
			if _, err := io.WriteString(c, says); err != nil {
				t.Fatal(err)
			}
			c.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection stays open")
			}
		})
	}
}
