package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
	"github.com/lbproxy/lbproxy/proxy/relay/netpoll"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// How a pool is kept connected. One goroutine does it, and waits most of the time.

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
func (p *connPool) run() {
	defer p.finish()
	for p.ctx.Err() == nil {
		c := p.connect(p.ctx, picker.Failed)
		for c != nil {
			c = p.stay(c)
		}
	}
}

func (p *connPool) finish() {
	p.worker.run(func(c *core) {
		p.closed = true
		c.timers.remove(&p.pause)
	})
	p.additional.Wait()
	close(p.stopped)
}

func (p *connPool) setState(state picker.State, cause error) {
	p.all.setState(p.worker.core.index, state, cause)
	if state != picker.Ready {
		p.worker.run(p.repick)
	}
}

// connect makes a connection that takes calls, however often it must try. It returns nil when ctx is done. Meanwhile is
// how the endpoint stands for as long as it fails.
func (p *connPool) connect(ctx context.Context, meanwhile picker.State) *conn {
	for p.pauseBetween(ctx) {
		p.began = time.Now()
		c, err := p.attempt(ctx, p.failures, func(err error) { p.setState(meanwhile, err) }, false)
		switch {
		case err == nil:
			if p.failures > 0 {
				p.all.dialer.Revived()
			}
			return c
		case ctx.Err() != nil:
			return nil
		}
		p.failures++
		p.unreached = true
		p.setState(meanwhile, err)
	}
	return nil
}

// stay is with a connection until it takes no more calls, and returns the one that has taken its place, if one has.
func (p *connPool) stay(c *conn) *conn {
	p.setState(picker.Ready, nil)
	for wanted := true; wanted; {
		select {
		case <-p.again:
			if c.handshake.generation == p.all.generation.Load() {
				continue // it has been made since
			}
			if next := p.replace(c); next != nil {
				return next
			}
		case <-c.handshake.over:
		case <-p.ctx.Done():
		}
		wanted = false
	}
	if p.ctx.Err() != nil {
		p.end(c)
		return nil
	}
	if p.judge(c.handshake); p.failures <= 1 {
		p.setState(picker.Connecting, c.handshake.err)
	} else {
		p.setState(picker.Failed, fmt.Errorf("connections are made, and end without use: %w", c.handshake.err))
	}
	return nil
}

// replace makes a connection for another registration, while c takes calls.
func (p *connPool) replace(c *conn) *conn {
	ctx, stop := context.WithCancel(p.ctx)
	defer stop()
	go func() { // ends with ctx
		select {
		case <-c.handshake.over:
			if !errors.Is(c.handshake.err, errRenewed) {
				stop() // there is none any more that could be replaced
			}
		case <-ctx.Done():
		}
	}()
	p.failures = 0
	return p.connect(ctx, picker.Ready)
}

// judge counts what a connection has come to. One that ended within a moment, or has served nothing, is not better than
// one that could not be made: a server that greets and closes must not be connected to without a pause.
func (p *connPool) judge(l *handshake) {
	p.unreached = false
	var goneAway *goAwayError
	graceful := errors.As(l.err, &goneAway) && goneAway.graceful()
	lasted := time.Since(l.began)
	switch {
	case lasted >= transport.ConnectBackoffMax, l.served && lasted >= moment, l.served && graceful:
		p.failures = 0
	case l.served, p.all.servedSince(l.began), graceful && lasted >= blink:
		p.failures = 1 // it is of use, or would have been if this worker had had calls
	default:
		p.failures++
	}
}

// pauseBetween waits between attempts, and returns false when ctx is done. The time is counted from the beginning of the
// last attempt, and grows; with many endpoints that are down, each waits longer for its turn.
func (p *connPool) pauseBetween(ctx context.Context) bool {
	if p.failures == 0 {
		return ctx.Err() == nil
	}
	pause := time.NewTimer(time.Until(p.began.Add(transport.Backoff(p.failures))))
	defer pause.Stop()
	if early, done := await(ctx, p, pause.C); early || done {
		return !done
	}
	place := p.all.dialer.Retry(p.failures)
	defer place.Leave()
	_, done := await(ctx, p, place.Called())
	return !done
}

// await waits for c, for what makes it worth trying early, or until ctx is done.
func await[T any](ctx context.Context, p *connPool, c <-chan T) (early, done bool) {
	nudged := p.nudged
	if !p.unreached {
		nudged = nil // workers must not have each other try a server over and over that greets and closes
	}
	select {
	case <-c:
	case <-p.again:
		p.failures = 0
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
func (p *connPool) attempt(ctx context.Context, failures int, tellSlow func(error), additional bool) (*conn, error) {
	end, err := p.all.dialer.Turn(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	patience := transport.Patience(failures)
	slow := transport.NewSlow(failures, patience, tellSlow)
	defer slow.End()
	generation := p.all.generation.Load()
	share := p.all.share
	if err := share.Take(); err != nil {
		return nil, err
	}
	nc, err := p.all.dialer.Dial(ctx, p.all.endpoint.Addr(), patience)
	if err != nil {
		share.Return()
		return nil, err
	}
	slow.Connected()
	c, err := p.worker.attach(nc, share.Return, func(d netpoll.Driver) *conn {
		c := p.newConn(p.worker.core, d, additional)
		c.handshake.began, c.handshake.generation = time.Now(), generation
		return c
	})
	if err != nil {
		share.Return()
		return nil, err
	}
	return p.greeting(ctx, c, patience)
}

// greeting waits until the backend has greeted.
func (p *connPool) greeting(ctx context.Context, c *conn, patience time.Duration) (*conn, error) {
	late := time.NewTimer(patience)
	defer late.Stop()
	giveUp := session.ErrFinished
	select {
	case <-c.handshake.ready:
		return c, nil
	case <-c.handshake.over:
	case <-late.C:
		giveUp = tooLate(patience)
	case <-ctx.Done():
	}
	p.worker.run(func(*core) {
		if !c.Greeted() {
			c.Close(giveUp)
		}
	})
	select {
	case <-c.handshake.ready: // after all
		return c, nil
	default:
		return nil, c.handshake.err
	}
}

// end ends a connection that is not needed any more.
func (p *connPool) end(c *conn) { p.worker.run(func(*core) { c.Close(session.ErrFinished) }) }

// dialAdditional makes one more connection and stays with it.
func (p *connPool) dialAdditional() {
	failures := 0
	p.worker.run(func(*core) { failures = p.growFailures })
	c, err := p.attempt(p.ctx, failures, func(error) {}, true)
	if err != nil {
		p.worker.run(p.growFailed)
		if p.ctx.Err() == nil {
			p.all.reportFailure(fmt.Errorf("one more connection, for calls that wait for a stream: %w", err))
		}
		return
	}
	select {
	case <-c.handshake.over:
	case <-p.ctx.Done():
		p.end(c)
	}
}
