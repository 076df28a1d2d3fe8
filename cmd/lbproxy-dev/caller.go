package main

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	greeter "google.golang.org/grpc/examples/helloworld/helloworld"
)

const (
	callTimeout = 5 * time.Second
	maxInFlight = 100
)

// caller calls the service through lbproxy, as any client does: it dials the proxy and names the service as
// the authority.
type caller struct {
	// Immutable:
	conn   *grpc.ClientConn
	client greeter.GreeterClient

	mu    sync.Mutex // protects:
	count callCount
}

// callCount is the outcome of calls.
type callCount struct {
	ended, failed uint64 // ended are all, failed those among them
	lastErr       error  // of a failed call; nil if there was none
}

func newCaller(proxy string) (*caller, error) {
	conn, err := grpc.NewClient("passthrough:///"+proxy, grpc.WithAuthority(service), grpc.WithNoProxy(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &caller{conn: conn, client: greeter.NewGreeterClient(conn)}, nil
}

func (c *caller) close() error { return c.conn.Close() }

// flow sends calls at a rate per second until ctx is done, and waits for the last ones.
func (c *caller) flow(ctx context.Context, rate int) {
	if rate == 0 {
		return
	}
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	var calls errgroup.Group
	calls.SetLimit(maxInFlight)
	defer calls.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			// Calls that run when ctx is done end on their own. If too many are running, the rate falls.
			calls.TryGo(func() error { c.call(context.WithoutCancel(ctx)); return nil })
		}
	}
}

// send sends n calls one after the other, so that no server is ever busier than another. It fails if ctx ends first.
func (c *caller) send(ctx context.Context, n int) error {
	for range n {
		c.call(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

func (c *caller) call(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.client.SayHello(ctx, &greeter.HelloRequest{Name: "playground"})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count.ended++
	if err != nil {
		c.count.failed++
		c.count.lastErr = err
	}
}

// counted is the outcome of the calls so far.
func (c *caller) counted() callCount {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}
