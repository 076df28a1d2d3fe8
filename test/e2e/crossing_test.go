package e2e

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/configs"
)

// These stories are of calls that one side ends while the other is still sending: what is on its way then must not
// be held against whoever sent it, nor against others on the same connection.

// oneWorker makes all callers share one connection to a backend.
func oneWorker(cfg *configs.Config) {
	cfg.Relay.Workers = 1
	cfg.Relay.MaxGlitches = 1000
}

// smallAnswers makes a backend answer /e2e.Crossing/Small with small messages until the caller goes, and
// /e2e.Crossing/Quiet with one when told.
func smallAnswers(answer <-chan struct{}) func(*backend) {
	return onAnyMethod(func(s grpc.ServerStream) error {
		one := []byte{1}
		if method, _ := grpc.MethodFromServerStream(s); method == "/e2e.Crossing/Quiet" {
			select {
			case <-answer:
			case <-s.Context().Done():
			}
			return s.SendMsg(&one)
		}
		for {
			if err := s.SendMsg(&one); err != nil {
				return err
			}
		}
	})
}

func rawStream(ctx context.Context, cc *grpc.ClientConn, method string) (grpc.ClientStream, error) {
	return cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.ForceCodecV2(rawCodec{}))
}

// receive takes n messages.
func receive(s grpc.ClientStream, n int) error {
	for range n {
		var message []byte
		if err := s.RecvMsg(&message); err != nil {
			return err
		}
	}
	return nil
}

// leavings are the ways in which a caller's calls end while the backend sends.
var leavings = []struct {
	name  string
	leave func(cc *grpc.ClientConn, cancel func())
	time  time.Duration // the caller's deadline; 0 for none
}{
	{"killed", func(cc *grpc.ClientConn, _ func()) { cc.Close() }, 0},
	{"cancelled", func(_ *grpc.ClientConn, cancel func()) { cancel() }, 0},
	{"out of time", func(*grpc.ClientConn, func()) {}, 200 * time.Millisecond},
}

func TestCallersThatLeaveABackendThatSends(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		answer := make(chan struct{})
		w.startInstance("hello", "", 1, smallAnswers(answer))
		p := w.startProxy(listed("hello"), oneWorker)
		quiet, err := rawStream(within(t), p.dial("hello"), "/e2e.Crossing/Quiet")
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range leavings {
			for range 2 {
				cc := p.dial("hello")
				ctx, cancel := context.WithCancel(within(t))
				if l.time > 0 {
					ctx, cancel = context.WithTimeout(ctx, l.time)
				}
				var calls errgroup.Group
				for range 3 {
					calls.Go(func() error {
						s, err := rawStream(ctx, cc, "/e2e.Crossing/Small")
						if err != nil {
							return err
						}
						return receive(s, 1000)
					})
				}
				if err := calls.Wait(); err != nil && l.time == 0 {
					t.Fatal(err)
				}
				l.leave(cc, cancel)
				cancel()
			}
			await(t, "end of the calls that were "+l.name, func() bool { return inFlight(p) <= 1 })
		}
		close(answer)
		if err := receive(quiet, 1); err != nil {
			t.Errorf("another caller's call: %v", err)
		}
	})
}

// inFlight is how many calls there are, by the metrics.
func inFlight(p *lbproxy) (n float64) {
	for series, value := range p.metrics() {
		if strings.HasPrefix(series, "lbproxy_calls_in_flight") {
			n += value
		}
	}
	return n
}

// Uploads of many small messages that the backend refuses after the first end by what it says, all of them.
func TestUploadsThatAreRefused(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		refusal := status.Error(codes.InvalidArgument, "not this")
		w.startInstance("hello", "", 1, onAnyMethod(func(s grpc.ServerStream) error {
			var message []byte
			if err := s.RecvMsg(&message); err != nil {
				return err
			}
			return refusal
		}))
		p := w.startProxy(listed("hello"), oneWorker)
		p.awaitReady("hello", 1)
		cc := p.dial("hello")
		for range 2 {
			var uploads errgroup.Group
			for range stormUploads {
				uploads.Go(func() error { return refusedUpload(within(t), cc) })
			}
			if err := uploads.Wait(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// refusedUpload sends empty messages until it is told to stop, and fails if that is for another reason than refusal.
func refusedUpload(ctx context.Context, cc *grpc.ClientConn) error {
	s, err := rawStream(ctx, cc, "/e2e.Crossing/Upload")
	for err == nil {
		err = s.SendMsg(new([]byte))
	}
	if errors.Is(err, io.EOF) {
		err = s.RecvMsg(new([]byte))
	}
	if status.Code(err) == codes.InvalidArgument {
		return nil
	}
	return err
}
