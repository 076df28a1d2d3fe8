package transport

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// crowd is endpoints that are down, and tried again and again.
type crowd struct {
	dialer *Dialer
	tries  atomic.Int64
}

func (c *crowd) join(ctx context.Context, all *sync.WaitGroup, failures int) {
	all.Go(func() { // ends with ctx
		for ctx.Err() == nil {
			place := c.dialer.Retry(failures)
			select {
			case <-place.Called():
				c.tries.Add(1)
				time.Sleep(5 * time.Second) // of backoff
			case <-ctx.Done():
				place.Leave()
			}
		}
	})
}

func TestEndpointsThatAreDownAreTriedOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		c := &crowd{dialer: NewDialer()}
		for range 10_000 {
			c.join(ctx, &all, 10)
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		if tries, want := c.tries.Load(), int64(time.Minute/retryPeriod*retryBatch); tries < want || tries > want+2*retryBatch {
			t.Errorf("%d tries in a minute, want %d", tries, want)
		}
		began := time.Now()
		place := c.dialer.Retry(1)
		<-place.Called()
		if took := time.Since(began); took > retryPeriod {
			t.Errorf("one that has just failed waits %s behind those that are down for long", took)
		}
		cancel()
		all.Wait()
		time.Sleep(time.Minute)
	})
}

func TestAFewThatAreDownDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		c := &crowd{dialer: NewDialer()}
		for range 10 {
			c.join(ctx, &all, 10)
		}
		time.Sleep(time.Minute)
		if tries := c.tries.Load(); tries < 110 {
			t.Errorf("%d tries of ten in a minute, with 5 s between them", tries)
		}
		cancel()
		all.Wait()
	})
}

// After an outage of all, those that connect bring others with them.
func TestAllComeBackTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const endpoints = 10_000
		began := time.Now()
		d := NewDialer()
		var all sync.WaitGroup
		for range endpoints {
			all.Go(func() {
				place := d.Retry(10)
				defer place.Leave()
				<-place.Called()
				time.Sleep(10 * time.Millisecond)
				d.Revived()
			})
		}
		all.Wait()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%d endpoints come back within %s", endpoints, took)
		}
	})
}
