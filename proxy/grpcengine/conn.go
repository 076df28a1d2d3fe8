package grpcengine

import (
	"context"
	"errors"
	"math"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// conn is the connection to an endpoint: one grpc.ClientConn, kept connected.
type conn struct {
	endpoint *picker.Endpoint
	share    *transport.Share
	cc       *grpc.ClientConn
	stop     context.CancelFunc
	watched  chan struct{} // closed when watch has returned

	// halfway is set while TCP has connected and HTTP/2 has not.
	halfway atomic.Bool
}

var (
	errLost      = errors.New("the connection has ended")
	errHandshake = errors.New("TCP connects but HTTP/2 does not; check that a gRPC server without TLS listens there")
)

// Dial implements [proxy.Engine].
func (e *Engine) Dial(ep *picker.Endpoint) picker.Conn {
	c := &conn{endpoint: ep, share: e.descriptors.Share(1), watched: make(chan struct{})}
	cc, err := grpc.NewClient("passthrough:///"+ep.Addr(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(c.dial),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: transport.ConnectBackoffMin, MaxDelay: transport.ConnectBackoffMax, Multiplier: 1.6, Jitter: 0.2,
			},
			MinConnectTimeout: transport.MaxPatience,
		}),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(rawCodec{}),
			grpc.MaxCallRecvMsgSize(math.MaxInt),
			grpc.MaxCallSendMsgSize(math.MaxInt),
		),
		grpc.WithStatsHandler(answerFacts{}),
		grpc.WithMaxHeaderListSize(maxHeaderListSize),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableHealthCheck(),
		grpc.WithNoProxy(),
	)
	if err != nil {
		panic(err) // the target and the options are the same for every address, and discovery has validated it
	}
	ctx, stop := context.WithCancel(context.Background())
	c.cc, c.stop = cc, stop
	go c.watch(ctx) // ends by Close, which waits for it
	return c
}

// dial is told of every attempt to connect; of those that fail again, watch is not.
func (c *conn) dial(ctx context.Context, addr string) (net.Conn, error) {
	if c.halfway.Swap(false) {
		c.endpoint.SetState(picker.Failed, errHandshake)
	}
	n, err := c.connect(ctx, addr)
	if err != nil {
		if ctx.Err() == nil {
			c.endpoint.SetState(picker.Failed, err)
		}
		return nil, err
	}
	c.halfway.Store(true)
	return n, nil
}

func (c *conn) connect(ctx context.Context, addr string) (net.Conn, error) {
	if err := c.share.Take(); err != nil {
		return nil, err
	}
	n, err := transport.BackendDialer().DialContext(ctx, "tcp", addr)
	if err != nil {
		c.share.Return()
		return nil, err
	}
	return &counted{Conn: n, gone: c.share.Return}, nil
}

// watch keeps the connection up and tells the endpoint how it stands.
func (c *conn) watch(ctx context.Context) {
	defer close(c.watched)
	wasReady := false
	for {
		state := c.cc.GetState()
		if wasReady && state != connectivity.Ready {
			c.endpoint.SetState(picker.Connecting, errLost)
		}
		switch state {
		case connectivity.Ready:
			c.halfway.Store(false)
			c.endpoint.SetState(picker.Ready, nil)
		case connectivity.TransientFailure:
			var cause error // dial has told it, unless
			if c.halfway.Swap(false) {
				cause = errHandshake
			}
			c.endpoint.SetState(picker.Failed, cause)
		case connectivity.Idle:
			c.cc.Connect()
		}
		wasReady = state == connectivity.Ready
		if !c.cc.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// Renew implements [picker.Conn].
func (c *conn) Renew() { c.cc.ResetConnectBackoff() }

// Close implements [picker.Conn].
func (c *conn) Close() {
	c.stop()
	<-c.watched
	c.cc.Close()
	c.share.Close()
}
