package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The caller's deadline reaches the backend, a little shorter for the way; the proxy adds none of its own.
func TestDeadlineReachesTheBackend(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		left := make(chan time.Duration, 1) // until the backend's deadline; 0 for none
		w.startInstance("hello", "", 1, onHello(func(ctx context.Context) error {
			deadline, ok := ctx.Deadline()
			if !ok {
				left <- 0
				return nil
			}
			left <- time.Until(deadline)
			return nil
		}))
		cc := w.startProxy().dial("hello")

		if _, err := sayHello(context.WithoutCancel(t.Context()), cc); err != nil {
			t.Fatal(err)
		}
		if got := <-left; got != 0 {
			t.Errorf("the caller has no deadline, the backend has one in %s", got)
		}
		const mine = 8 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), mine)
		defer cancel()
		if _, err := sayHello(ctx, cc); err != nil {
			t.Fatal(err)
		}
		if got := <-left; got <= mine/2 || got > mine {
			t.Errorf("the caller has %s, the backend %s", mine, got)
		}
	})
}

// A call that its caller gives up ends at the backend at once, whatever it is doing.
func TestCancelReachesTheBackend(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		started, ended := make(chan struct{}), make(chan error)
		in := w.startInstance("hello", "", 1, onHello(func(ctx context.Context) error {
			started <- struct{}{}
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return ctx.Err()
		}))
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 1)

		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { // ends by cancel
			_, err := sayHello(ctx, p.dial("hello"))
			result <- err
		}()
		<-started
		cancel()
		cancelled := time.Now()
		if err := <-result; status.Code(err) != codes.Canceled {
			t.Errorf("the caller gets %v, want Canceled", err)
		}
		if cause := <-ended; !errors.Is(cause, context.Canceled) {
			t.Errorf("the backend's call ends by %v, want a cancel", cause)
		}
		if took := time.Since(cancelled); took > time.Second {
			t.Errorf("the cancel took %s to the backend", took)
		}
		await(t, "canceled call in the metrics", func() bool {
			m := p.metrics()
			return m[`lbproxy_calls_total{code="Canceled",origin="proxy",service="hello"}`] == 1 &&
				m[fmt.Sprintf(`lbproxy_endpoint_in_flight{endpoint=%q,service="hello"}`, in.addr)] == 0 &&
				m[`lbproxy_calls_in_flight{service="hello"}`] == 0
		})
		for series := range p.metrics() {
			if strings.HasPrefix(series, "lbproxy_errors_total") {
				t.Errorf("a caller's cancel is counted as an error of the proxy: %s", series)
			}
		}
	})
}

// So does a stream in which nobody is saying anything, and one that the backend does not read from.
func TestCancelReachesABackendThatDoesNotListen(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		ended := make(chan struct{})
		w.startInstance("hello", "", 1, func(b *backend) {
			b.options = []grpc.ServerOption{grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
				if err := stream.SendHeader(metadata.MD{}); err != nil {
					return err
				}
				<-stream.Context().Done()
				close(ended)
				return nil
			}), grpc.WaitForHandlers(true)}
		})
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		cc := w.startProxy().dial("hello")
		both := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
		stream, err := cc.NewStream(ctx, both, "/e2e.Talk/Converse", grpc.ForceCodecV2(rawCodec{}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Header(); err != nil {
			t.Fatal(err)
		}
		sending, stuck := make(chan struct{}), make(chan struct{})
		go func() { // ends by cancel
			defer close(sending)
			much := make([]byte, 1<<20)
			if stream.SendMsg(&much) != nil {
				return
			}
			close(stuck) // the first one has left, and is more than the backend takes
			for stream.SendMsg(&much) == nil {
			}
		}()
		select {
		case <-stuck:
		case <-sending:
			t.Error("the first message cannot be sent")
		}
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("the backend's call goes on after its caller's cancel")
		}
		<-sending
	})
}
