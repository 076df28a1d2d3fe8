package grpcengine

import (
	"context"
	"errors"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

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
	dialer   *transport.Dialer
	cc       *grpc.ClientConn
	stop     context.CancelFunc
	watched  chan struct{} // closed when watch has returned
	again    chan struct{} // receives when it is worth trying again at once

	failures atomic.Int32               // attempts to connect, on end, that have come to nothing
	halfway  atomic.Pointer[backendEnd] // what TCP has connected to and HTTP/2 has not greeted on; nil if there is none
	served   atomic.Bool                // a call has been answered since the last connection was lost
}

// blink is how long a connection must last for its end not to mean that the server wants none.
const blink = 10 * time.Millisecond

var errLost = errors.New("the connection has ended")

// Dial implements [proxy.Engine].
func (e *Engine) Dial(ep *picker.Endpoint) picker.Conn {
	c := &conn{
		endpoint: ep, share: e.descriptors.Share(1), dialer: e.dialer,
		watched: make(chan struct{}), again: make(chan struct{}, 1),
	}
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
	c.notGreeted()
	n, err := c.connect(ctx, addr)
	if err != nil {
		if ctx.Err() == nil {
			c.failed(err)
		}
		return nil, err
	}
	return n, nil
}

// notGreeted tells of a connection, if there is one, that HTTP/2 has not greeted on and that is given up.
func (c *conn) notGreeted() {
	if end := c.halfway.Swap(nil); end != nil {
		c.failed(end.why())
	}
}

func (c *conn) failed(err error) {
	c.failures.Add(1)
	c.endpoint.SetState(picker.Failed, err)
}

func (c *conn) connect(ctx context.Context, addr string) (net.Conn, error) {
	failures := int(c.failures.Load())
	if failures > 0 {
		place := c.dialer.Retry(failures)
		defer place.Leave()
		select {
		case <-place.Called():
		case <-c.again:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	endTurn, err := c.dialer.Turn(ctx)
	if err != nil {
		return nil, err
	}
	slow := transport.NewSlow(failures, transport.MaxPatience, func(err error) { c.endpoint.SetState(picker.Failed, err) })
	settle := func() {
		slow.End()
		endTurn()
	}
	if err := c.share.Take(); err != nil {
		settle()
		return nil, err
	}
	n, err := c.dialer.Dial(ctx, addr, transport.Patience(failures))
	if err != nil {
		settle()
		c.share.Return()
		return nil, err
	}
	slow.Connected()
	end := &backendEnd{counted: counted{Conn: n, gone: c.share.Return}, settle: settle}
	c.halfway.Store(end)
	return end, nil
}

// backendEnd is a connection to a backend, of which is known how it has begun.
type backendEnd struct {
	counted
	settle func() // ends the attempt to connect

	began bool // owned by Read, which grpc-go calls from one goroutine

	mu    sync.Mutex // protects, until it has begun:
	first []byte     // what the backend has said
	err   error      // that reading has failed with
}

// maxFirst is how much is kept of what a backend says first, and minFirst how much tells what it speaks.
const minFirst, maxFirst = 9, 64

func (e *backendEnd) Read(b []byte) (int, error) {
	n, err := e.counted.Read(b)
	if !e.began {
		e.begin(b[:n], err)
	}
	return n, err
}

func (e *backendEnd) begin(b []byte, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.first = append(e.first, b[:min(len(b), maxFirst-len(e.first))]...)
	e.err = err
	if e.began = err != nil || len(e.first) >= minFirst; e.began {
		e.settle()
	}
}

func (e *backendEnd) Close() error {
	e.settle()
	return e.counted.Close()
}

// why says why it is given up.
func (e *backendEnd) why() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch foreign := transport.ForeignGreeting(e.first); {
	case foreign != nil:
		return foreign
	case len(e.first) >= minFirst:
		return errLost
	case e.err == nil, errors.Is(e.err, net.ErrClosed):
		return transport.LateGreeting(e.first, transport.MaxPatience)
	}
	return transport.NoGreeting(e.first, e.err)
}

// watch keeps the connection up and tells the endpoint how it stands.
func (c *conn) watch(ctx context.Context) {
	defer close(c.watched)
	var ready time.Time // since when it is; zero if it is not
	for {
		state := c.cc.GetState()
		if !ready.IsZero() && state != connectivity.Ready {
			c.lost(time.Since(ready))
			ready = time.Time{}
		}
		switch state {
		case connectivity.Ready:
			c.halfway.Store(nil)
			if c.failures.Load() > 0 {
				c.dialer.Revived()
			}
			c.endpoint.SetState(picker.Ready, nil)
			ready = time.Now()
		case connectivity.TransientFailure:
			c.notGreeted() // of others dial has told
			c.endpoint.SetState(picker.Failed, nil)
		case connectivity.Idle:
			if !c.pause(ctx) {
				return
			}
			c.cc.Connect()
		}
		if !c.cc.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// serves notes that a call has been answered.
func (c *conn) serves() {
	if !c.served.Load() {
		c.served.Store(true)
	}
}

// lost judges a connection that has lasted for some time: one that was of no use must not be followed by another at once.
func (c *conn) lost(lasted time.Duration) {
	switch {
	case c.served.Swap(false), lasted >= transport.ConnectBackoffMax:
		c.failures.Store(0)
	case lasted >= blink: // it may have gone away gracefully, which grpc-go does not tell
		c.failures.Store(1)
	default:
		c.failed(errLost)
		return
	}
	c.endpoint.SetState(picker.Connecting, errLost)
}

// pause waits before connecting anew, after failures that grpc-go takes for none, and returns false when ctx is done.
func (c *conn) pause(ctx context.Context) bool {
	failures := int(c.failures.Load())
	if failures == 0 {
		return true
	}
	select {
	case <-time.After(transport.Backoff(failures)):
	case <-c.again:
	case <-ctx.Done():
		return false
	}
	return true
}

// Renew implements [picker.Conn]. A connection that there is stays for as long as it stands: grpc-go ends one with its
// calls, or not at all.
func (c *conn) Renew() {
	select {
	case c.again <- struct{}{}:
	default: // it is about to
	}
	c.cc.ResetConnectBackoff()
}

// Close implements [picker.Conn].
func (c *conn) Close() {
	c.stop()
	<-c.watched
	c.cc.Close()
	c.share.Close()
}
