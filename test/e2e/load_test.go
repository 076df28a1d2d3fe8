package e2e

import (
	"context"
	"sync"
	"sync/atomic"
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
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	cc := p.dial(service)
	for range n {
		l.callers.Go(func() { // ends by stop
			for ctx.Err() == nil {
				if _, err := sayHello(context.WithoutCancel(ctx), cc); err != nil {
					l.failed.CompareAndSwap(nil, &err)
				}
				l.calls.Add(1)
			}
		})
	}
	p.t.Cleanup(func() { l.stop() })
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
