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
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// conn is the connection to an endpoint: one grpc.ClientConn, kept connected.
type conn struct {
	endpoint *picker.Endpoint
	share    *transport.Share
	dialer   *transport.Dialer
	cc       *grpc.ClientConn
	resolver *manual.Resolver
	stop     context.CancelFunc
	watched  chan struct{} // closed when watch has returned
	again    chan struct{} // receives when it is worth trying again at once
	renewing sync.WaitGroup
	renewals atomic.Uint32
	built    atomic.Pointer[resolver.ClientConn] // what the resolver is for

	ready    atomic.Bool                // as watch has seen last
	failures atomic.Int32               // attempts to connect in a row that have come to nothing
	halfway  atomic.Pointer[backendEnd] // what TCP has connected to and HTTP/2 has not greeted on; nil if there is none
	greeted  atomic.Bool                // HTTP/2 has, and watch has not seen it
	served   atomic.Bool                // a call has been answered since the last connection was lost
}

var errLost = errors.New("the connection has ended")

// Reload implements [proxy.Engine]. There are no settings that this engine knows.
func (e *Engine) Reload(*transport.Live) {}

// Dial implements [proxy.Engine].
func (e *Engine) Dial(ep *picker.Endpoint, _ *transport.Live) picker.Conn {
	c := &conn{
		endpoint: ep, share: e.descriptors.Share(1), dialer: e.dialer,
		watched: make(chan struct{}), again: make(chan struct{}, 1),
	}
	c.resolver = manual.NewBuilderWithScheme("instance")
	c.resolver.BuildCallback = func(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) { c.built.Store(&cc) }
	c.resolver.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: ep.Addr()}}})
	cc, err := grpc.NewClient("instance:///"+ep.Addr(),
		grpc.WithResolvers(c.resolver),
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
	c.tell(err)
}

// tell tells why an attempt has failed, or takes its time. It may be one for a connection in the place of another.
func (c *conn) tell(err error) {
	if c.ready.Load() {
		c.endpoint.SetState(picker.Ready, err)
	} else {
		c.endpoint.SetState(picker.Failed, err)
	}
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
	slow := transport.NewSlow(failures, transport.MaxPatience, c.tell)
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
	end := &backendEnd{conn: c, counted: counted{Conn: n, gone: c.share.Return}, settle: settle}
	c.halfway.Store(end)
	return end, nil
}

// backendEnd is a connection to a backend, of which is known how it has begun.
type backendEnd struct {
	counted
	conn   *conn
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
	if len(e.first) >= minFirst && transport.ForeignGreeting(e.first) == nil {
		e.conn.halfway.CompareAndSwap(e, nil)
		e.conn.greeted.Store(true)
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
			c.ready.Store(false)
			c.greeted.Store(false)
			c.lost(time.Since(ready))
			ready = time.Time{}
		}
		switch state {
		case connectivity.Ready:
			c.greeted.Store(false)
			c.ready.Store(true)
			if c.failures.Load() > 0 {
				c.dialer.Revived()
			}
			c.endpoint.SetState(picker.Ready, nil)
			ready = time.Now()
		case connectivity.TransientFailure:
			c.notGreeted() // of others dial has told
			c.endpoint.SetState(picker.Failed, nil)
		case connectivity.Idle:
			if c.greeted.Swap(false) { // it was ready, for less time than it takes to see it
				c.lost(0)
			}
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
	if !c.served.Swap(false) && lasted < transport.ConnectBackoffMax {
		c.failed(errLost)
		return
	}
	c.failures.Store(0)
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

// Renew implements [picker.Conn].
func (c *conn) Renew() {
	select {
	case c.again <- struct{}{}:
	default: // it is about to
	}
	c.renewing.Go(c.renew) // ends soon; Close waits for it
}

// renew has grpc-go make another connection, which takes calls when it has come to something; the one that there is ends
// with its calls then. Grpc-go does so where the policy changes that it is to use, so there are two of one kind.
func (c *conn) renew() {
	c.cc.ResetConnectBackoff()
	cc := c.built.Load()
	if cc == nil {
		return // it has yet to connect
	}
	policy := [...]string{pickfirst.Name, pickFirstToo}[c.renewals.Add(1)%2]
	c.resolver.UpdateState(resolver.State{
		Addresses:     []resolver.Address{{Addr: c.endpoint.Addr()}},
		ServiceConfig: (*cc).ParseServiceConfig(`{"loadBalancingConfig": [{"` + policy + `": {}}]}`),
	})
}

// pickFirstToo is grpc-go's policy pick_first by another name.
const pickFirstToo = "lbproxy_pick_first"

type pickFirst struct{ balancer.Builder }

func (pickFirst) Name() string { return pickFirstToo }

func init() { balancer.Register(pickFirst{balancer.Get(pickfirst.Name)}) }

// Close implements [picker.Conn].
func (c *conn) Close() {
	c.stop()
	<-c.watched
	c.renewing.Wait()
	c.cc.Close()
	c.share.Close()
}
