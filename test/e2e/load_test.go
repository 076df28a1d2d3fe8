package e2e

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
)

// load is callers that make one unary call after the other.
type load struct {
	cancel  context.CancelFunc
	callers sync.WaitGroup
	calls   atomic.Int64
	failed  atomic.Pointer[error] // the first that failed
}

// startLoad starts n callers of a service, on one connection. They go on until stopped.
func (p *lbproxy) startLoad(service string, n int) *load {
	return startLoad(p.t, n, p.dial(service))
}

// startLoad starts n callers on each connection. They go on until stopped.
func startLoad(t testing.TB, n int, ccs ...*grpc.ClientConn) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for i := range n * len(ccs) {
		cc := ccs[i%len(ccs)]
		l.callers.Go(func() { // ends by stop
			for ctx.Err() == nil {
				if _, err := sayHello(context.WithoutCancel(ctx), cc); err != nil {
					l.failed.CompareAndSwap(nil, &err)
				}
				l.calls.Add(1)
			}
		})
	}
	t.Cleanup(func() { l.stop() })
	return l
}

// stop ends the load and returns how many calls were made, and why the first one failed, if any.
func (l *load) stop() (calls int64, failed error) {
	l.cancel()
	l.callers.Wait()
	if err := l.failed.Load(); err != nil {
		failed = *err
	}
	return l.calls.Load(), failed
}
