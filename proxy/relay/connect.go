package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// How an upstream is kept connected. One goroutine does it, and waits most of the time.

const (
	// moment is how long a connection must last that has worked, if it has served calls.
	moment = time.Second
	// blink is how long one must last for its GOAWAY not to mean that the server wants none.
	blink = 10 * time.Millisecond
)

// tooLate is why a connection ends whose backend has not greeted for so long.
type tooLate time.Duration

func (e tooLate) Error() string { return fmt.Sprintf("no greeting within %s", time.Duration(e)) }

// run keeps the endpoint connected and tells it how it stands. It ends by stop.
func (u *upstream) run() {
	defer u.finish()
	for u.ctx.Err() == nil {
		c := u.connect(u.ctx, picker.Failed)
		for c != nil {
			c = u.stay(c)
		}
	}
}

func (u *upstream) finish() {
	u.shard.enter(func(c *core) {
		u.closed = true
		c.timers.remove(&u.pause)
	})
	u.additional.Wait()
	close(u.stopped)
}

func (u *upstream) setState(state picker.State, cause error) {
	u.destination.setState(u.shard.core.index, state, cause)
	if state != picker.Ready {
		u.shard.enter(u.repick)
	}
}

// connect makes a connection that takes calls, however often it must try. It returns nil when ctx is done. Meanwhile is
// how the endpoint stands for as long as it fails.
func (u *upstream) connect(ctx context.Context, meanwhile picker.State) *conn {
	for u.pauseBetween(ctx) {
		u.began = time.Now()
		c, err := u.attempt(ctx, u.failures, func(err error) { u.setState(meanwhile, err) }, false)
		switch {
		case err == nil:
			if u.failures > 0 {
				u.destination.dialer.Revived()
			}
			return c
		case ctx.Err() != nil:
			return nil
		}
		u.failures++
		u.unreached = true
		u.setState(meanwhile, err)
	}
	return nil
}

// stay is with a connection until it takes no more calls, and returns the one that has taken its place, if one has.
func (u *upstream) stay(c *conn) *conn {
	u.setState(picker.Ready, nil)
	for wanted := true; wanted; {
		select {
		case <-u.again:
			if c.link.generation == u.destination.generation.Load() {
				continue // it has been made since
			}
			if next := u.replace(c); next != nil {
				return next
			}
		case <-c.link.over:
		case <-u.ctx.Done():
		}
		wanted = false
	}
	if u.ctx.Err() != nil {
		u.end(c)
		return nil
	}
	if u.judge(c.link); u.failures <= 1 {
		u.setState(picker.Connecting, c.link.err)
	} else {
		u.setState(picker.Failed, fmt.Errorf("connections are made, and end without use: %w", c.link.err))
	}
	return nil
}

// replace makes a connection for another registration, while c takes calls.
func (u *upstream) replace(c *conn) *conn {
	ctx, stop := context.WithCancel(u.ctx)
	defer stop()
	go func() { // ends with ctx
		select {
		case <-c.link.over:
			if !errors.Is(c.link.err, errRenewed) {
				stop() // there is none any more that could be replaced
			}
		case <-ctx.Done():
		}
	}()
	u.failures = 0
	return u.connect(ctx, picker.Ready)
}

// judge counts what a connection has come to. One that ended within a moment, or has served nothing, is not better than
// one that could not be made: a server that greets and closes must not be connected to without a pause.
func (u *upstream) judge(l *link) {
	u.unreached = false
	var goneAway *goAwayError
	graceful := errors.As(l.err, &goneAway) && goneAway.graceful()
	lasted := time.Since(l.began)
	switch {
	case lasted >= transport.ConnectBackoffMax, l.served && lasted >= moment, l.served && graceful:
		u.failures = 0
	case l.served, u.destination.servedSince(l.began), graceful && lasted >= blink:
		u.failures = 1 // it is of use, or would have been if this worker had had calls
	default:
		u.failures++
	}
}

// pauseBetween waits between attempts, and returns false when ctx is done. The time is counted from the beginning of the
// last attempt, and grows; with many endpoints that are down, each waits longer for its turn.
func (u *upstream) pauseBetween(ctx context.Context) bool {
	if u.failures == 0 {
		return ctx.Err() == nil
	}
	pause := time.NewTimer(time.Until(u.began.Add(transport.Backoff(u.failures))))
	defer pause.Stop()
	if early, done := await(ctx, u, pause.C); early || done {
		return !done
	}
	place := u.destination.dialer.Retry(u.failures)
	defer place.Leave()
	_, done := await(ctx, u, place.Called())
	return !done
}

// await waits for c, for what makes it worth trying early, or until ctx is done.
func await[T any](ctx context.Context, u *upstream, c <-chan T) (early, done bool) {
	nudged := u.nudged
	if !u.unreached {
		nudged = nil // workers must not have each other try a server over and over that greets and closes
	}
	select {
	case <-c:
	case <-u.again:
		u.failures = 0
		return true, false
	case <-nudged:
		return true, false
	case <-ctx.Done():
		return false, true
	}
	return false, false
}

// attempt makes a connection that takes calls, or says why not. Others may have to be waited for first: only then does
// time begin to count.
func (u *upstream) attempt(ctx context.Context, failures int, tellSlow func(error), additional bool) (*conn, error) {
	end, err := u.destination.dialer.Turn(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	patience := transport.Patience(failures)
	slow := transport.NewSlow(failures, patience, tellSlow)
	defer slow.End()
	generation := u.destination.generation.Load()
	share := u.destination.share
	if err := share.Take(); err != nil {
		return nil, err
	}
	nc, err := u.destination.dialer.Dial(ctx, u.destination.endpoint.Addr(), patience)
	if err != nil {
		share.Return()
		return nil, err
	}
	slow.Connected()
	c, err := u.shard.attach(nc, share.Return, func(d driver) *conn {
		c := u.newConn(u.shard.core, d, additional)
		c.link.began, c.link.generation = time.Now(), generation
		return c
	})
	if err != nil {
		share.Return()
		return nil, err
	}
	return u.greeting(ctx, c, patience)
}

// greeting waits until the backend has greeted.
func (u *upstream) greeting(ctx context.Context, c *conn, patience time.Duration) (*conn, error) {
	late := time.NewTimer(patience)
	defer late.Stop()
	giveUp := errFinished
	select {
	case <-c.link.ready:
		return c, nil
	case <-c.link.over:
	case <-late.C:
		giveUp = tooLate(patience)
	case <-ctx.Done():
	}
	u.shard.enter(func(*core) {
		if !c.greeted {
			c.end(giveUp)
		}
	})
	select {
	case <-c.link.ready: // after all
		return c, nil
	default:
		return nil, c.link.err
	}
}

// end ends a connection that is not needed any more.
func (u *upstream) end(c *conn) { u.shard.enter(func(*core) { c.end(errFinished) }) }

// dialAdditional makes one more connection and stays with it.
func (u *upstream) dialAdditional() {
	failures := 0
	u.shard.enter(func(*core) { failures = u.vain })
	c, err := u.attempt(u.ctx, failures, func(error) {}, true)
	if err != nil {
		u.shard.enter(u.grewNot)
		if u.ctx.Err() == nil {
			u.destination.tell(fmt.Errorf("one more connection, for calls that wait for a stream: %w", err))
		}
		return
	}
	select {
	case <-c.link.over:
	case <-u.ctx.Done():
		u.end(c)
	}
}
