package e2e

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/traffic"
)

// never is a drain timeout of which nobody sees the end: a proxy that ends has not waited for it.
const never = time.Hour

func drainTimeout(d time.Duration) func(*configs.Config) {
	return func(cfg *configs.Config) { cfg.DrainTimeout = d }
}

// gate is a way to hold calls at a backend.
type gate struct{ arrived, open chan struct{} }

func newGate() gate { return gate{make(chan struct{}, 100), make(chan struct{})} }

// hold is for onHello.
func (g gate) hold(ctx context.Context) error {
	g.arrived <- struct{}{}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Calls that run when the proxy is told to stop may end; meanwhile it is not ready and takes no connections.
func TestRunningCallsEndBeforeTheProxy(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		g := newGate()
		w.startInstance("hello", "", 1, onHello(g.hold))
		p := w.startProxy(listed("hello"), drainTimeout(never), func(cfg *configs.Config) {
			cfg.Listeners = append(cfg.Listeners, configs.Listener{Address: newAddr(t), Service: "hello"})
		})
		p.awaitReady("hello", 1)
		unary := make(chan error, 1)
		go func() { // ends when the gate opens
			_, err := sayHello(within(t), p.dial("hello"))
			unary <- err
		}()
		<-g.arrived
		stream := p.converse(within(t), "hello")
		p.mustAsk(stream)

		p.term()
		await(t, "refusal of connections", func() bool { return refuses(p.Addrs()[0]) && refuses(p.Addrs()[1]) })
		if code, body := p.admin("/readyz"); code != http.StatusServiceUnavailable || body != "not ready: draining\n" {
			t.Errorf("/readyz = %d %q", code, body)
		}
		if code, _ := p.admin("/healthz"); code != http.StatusOK {
			t.Errorf("/healthz = %d", code)
		}
		for range 3 {
			p.mustAsk(stream)
		}
		close(g.open)
		if err := <-unary; err != nil {
			t.Errorf("the unary call ends by %v", err)
		}
		if len(p.ended) > 0 {
			t.Error("the proxy has ended before the stream")
		}
		if err := stream.end(); err != nil {
			t.Errorf("the stream ends by %v", err)
		}
		p.stop()
		if !refuses(p.AdminAddr()) {
			t.Error("the admin API outlives the proxy")
		}
	})
}

// Calls that do not end in time are failed, and the proxy ends.
func TestCallsThatOutliveTheDrainTimeout(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		g := newGate()
		w.startInstance("hello", "", 1, onHello(g.hold))
		p := w.startProxy(listed("hello"), drainTimeout(300*time.Millisecond))
		p.awaitReady("hello", 1)
		unary := make(chan error, 1)
		go func() { // ends with the proxy
			_, err := sayHello(within(t), p.dial("hello"))
			unary <- err
		}()
		<-g.arrived
		stream := p.converse(within(t), "hello")
		p.mustAsk(stream)
		silent := p.converse(within(t), "hello") // nothing has been said yet
		await(t, "calls at the proxy", func() bool { return p.service("hello").InFlight == 3 })

		start := time.Now()
		p.term()
		for what, err := range map[string]error{"unary call": <-unary, "stream": stream.listen(), "silent stream": silent.listen()} {
			if status.Code(err) != codes.Unavailable || reasonOf(err) != string(proxy.Draining) {
				t.Errorf("the %s ends by %v, reason %q", what, err, reasonOf(err))
			}
		}
		if took := time.Since(start); took < 300*time.Millisecond {
			t.Errorf("calls are failed %s after the start of the drain", took)
		}
		p.stop()
	})
}

// A call that waits for an instance is a running call, too.
func TestWaitingCallIsFailedAsDraining(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		left := startBackend(t)
		left.kill()
		w.register(left, "hello", "", 1)
		p := w.startProxy(drainTimeout(100*time.Millisecond),
			listedAs("hello", func(s *traffic.Service) { s.WaitTimeout = time.Minute }))
		result := make(chan error, 1)
		go func() { // ends with the proxy
			_, err := sayHello(within(t), p.dial("hello"))
			result <- err
		}()
		await(t, "waiting call", func() bool { return p.service("hello").InFlight == 1 })
		p.term()
		if err := <-result; reasonOf(err) != string(proxy.Draining) {
			t.Errorf("the call ends by %v", err)
		}
		p.stop()
	})
}

// A caller that has stopped reading, so that an answer to it is stuck, does not keep the proxy from ending.
func TestStuckCallerDoesNotKeepTheProxy(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		s := newStage(t, w, drainTimeout(100*time.Millisecond))
		much := make([]byte, 1<<20)
		answering := make(chan struct{})
		s.set(func(p *party) error {
			close(answering)
			for p.stream.SendMsg(&much) == nil {
			}
			return nil
		})
		conversation, err := converse(s.context(t), s.proxied, "/e2e.Exchange/Perform")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conversation.Header(); err != nil {
			t.Fatal(err)
		}
		<-answering
		s.proxy.stop()
		<-s.backends // the backend's call has ended, too
	})
}

// A proxy without calls waits for nothing.
func TestIdleProxyEndsAtOnce(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		w.startInstance("hello", "", 1)
		p := w.startProxy(listed("hello"), drainTimeout(never))
		greet(t, p.dial("hello"), 1) // and the connection stays
		p.stop()
	})
}

func refuses(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err == nil {
		c.Close()
	}
	return err != nil
}
