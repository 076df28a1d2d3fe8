//go:build linux

package e2e

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/configs"
)

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
				greet(t, p.dial(t), 50) // which another caller does, too, all the while
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
