package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
	"github.com/lbproxy/lbproxy/proxy/relay/netpoll"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

const (
	// moment is how long a connection must last that has worked, if it has served calls.
	moment = time.Second
	// blink is how long one must last for its GOAWAY not to mean that the server wants none.
	blink = 10 * time.Millisecond
)

// connector keeps a pool connected: it dials, waits, and gives the pool what it has connected. One goroutine does it, and
// waits most of the time; another one stays with each additional connection.
type connector struct {
	// Immutable:
	pool       *connPool
	all        *endpointConns
	worker     *worker
	ctx        context.Context
	stop       context.CancelFunc
	stopped    chan struct{} // closed when run has returned
	again      chan struct{} // receives when another connection is wanted
	nudged     chan struct{} // receives when it is worth trying again at once; nobody sends who would have to wait
	additional sync.WaitGroup

	// Owned by run:
	failures  int       // attempts to connect in a row that have come to nothing; see judge
	unreached bool      // the last one did not connect at all
	began     time.Time // when it did begin
}

func newConnector(w *worker, p *connPool) *connector {
	d := &connector{
		pool: p, all: p.all, worker: w,
		stopped: make(chan struct{}), again: make(chan struct{}, 1), nudged: make(chan struct{}),
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	p.grow = func() { d.additional.Go(d.dialAdditional) }
	return d
}

// dialled is a connection whose connector waits for what becomes of it.
type dialled struct {
	*conn
	ready chan struct{} // closed when it takes calls
	over  chan struct{} // closed when it takes none any more
}

func newDialled() *dialled { return &dialled{ready: make(chan struct{}), over: make(chan struct{})} }

func (d *dialled) onReady() { close(d.ready) }
func (d *dialled) onOver()  { close(d.over) }

// tooLate is why a connection ends whose backend has not greeted for so long.
type tooLate time.Duration

func (e tooLate) Error() string { return fmt.Sprintf("no greeting within %s", time.Duration(e)) }

// run keeps the endpoint connected and tells it how it stands. It ends by stop.
func (d *connector) run() {
	defer d.finish()
	for d.ctx.Err() == nil {
		c := d.connect(d.ctx, picker.Failed)
		for c != nil {
			c = d.stay(c)
		}
	}
}

func (d *connector) finish() {
	d.worker.run(func(c *core) {
		d.pool.closed = true
		c.timers.remove(&d.pool.pause)
	})
	d.additional.Wait()
	close(d.stopped)
}

func (d *connector) setState(state picker.State, cause error) {
	d.all.setState(d.worker.core.index, state, cause)
	if state != picker.Ready {
		d.worker.run(d.pool.repick)
	}
}

// connect makes a connection that takes calls, however often it must try. It returns nil when ctx is done. Meanwhile is
// how the endpoint stands for as long as it fails.
func (d *connector) connect(ctx context.Context, meanwhile picker.State) *dialled {
	for d.pauseBetween(ctx) {
		d.began = time.Now()
		c, err := d.attempt(ctx, d.failures, func(err error) { d.setState(meanwhile, err) }, false)
		switch {
		case err == nil:
			if d.failures > 0 {
				d.all.dialer.Revived()
			}
			return c
		case ctx.Err() != nil:
			return nil
		}
		d.failures++
		d.unreached = true
		d.setState(meanwhile, err)
	}
	return nil
}

// stay is with a connection until it takes no more calls, and returns the one that has taken its place, if one has.
func (d *connector) stay(c *dialled) *dialled {
	d.setState(picker.Ready, nil)
	for wanted := true; wanted; {
		select {
		case <-d.again:
			if c.handshake.generation == d.all.generation.Load() {
				continue // it has been made since
			}
			if next := d.replace(c); next != nil {
				return next
			}
		case <-c.over:
		case <-d.ctx.Done():
		}
		wanted = false
	}
	if d.ctx.Err() != nil {
		d.end(c)
		return nil
	}
	if d.judge(c.handshake); d.failures <= 1 {
		d.setState(picker.Connecting, c.handshake.err)
	} else {
		d.setState(picker.Failed, fmt.Errorf("connections are made, and end without use: %w", c.handshake.err))
	}
	return nil
}

// replace makes a connection for another registration, while c takes calls.
func (d *connector) replace(c *dialled) *dialled {
	ctx, stop := context.WithCancel(d.ctx)
	defer stop()
	go func() { // ends with ctx
		select {
		case <-c.over:
			if !errors.Is(c.handshake.err, errRenewed) {
				stop() // there is none any more that could be replaced
			}
		case <-ctx.Done():
		}
	}()
	d.failures = 0
	return d.connect(ctx, picker.Ready)
}

// judge counts what a connection has come to. One that ended within a moment, or has served nothing, is not better than
// one that could not be made: a server that greets and closes must not be connected to without a pause.
func (d *connector) judge(l *handshake) {
	d.unreached = false
	var goneAway *goAwayError
	graceful := errors.As(l.err, &goneAway) && goneAway.graceful()
	lasted := time.Since(l.began)
	switch {
	case lasted >= transport.ConnectBackoffMax, l.served && lasted >= moment, l.served && graceful:
		d.failures = 0
	case l.served, d.all.servedSince(l.began), graceful && lasted >= blink:
		d.failures = 1 // it is of use, or would have been if this worker had had calls
	default:
		d.failures++
	}
}

// pauseBetween waits between attempts, and returns false when ctx is done. The time is counted from the beginning of the
// last attempt, and grows; with many endpoints that are down, each waits longer for its turn.
func (d *connector) pauseBetween(ctx context.Context) bool {
	if d.failures == 0 {
		return ctx.Err() == nil
	}
	pause := time.NewTimer(time.Until(d.began.Add(transport.Backoff(d.failures))))
	defer pause.Stop()
	if early, done := await(ctx, d, pause.C); early || done {
		return !done
	}
	place := d.all.dialer.Retry(d.failures)
	defer place.Leave()
	_, done := await(ctx, d, place.Called())
	return !done
}

// await waits for c, for what makes it worth trying early, or until ctx is done.
func await[T any](ctx context.Context, d *connector, c <-chan T) (early, done bool) {
	nudged := d.nudged
	if !d.unreached {
		nudged = nil // workers must not have each other try a server over and over that greets and closes
	}
	select {
	case <-c:
	case <-d.again:
		d.failures = 0
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
func (d *connector) attempt(ctx context.Context, failures int, tellSlow func(error), additional bool) (*dialled, error) {
	end, err := d.all.dialer.Turn(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	patience := transport.Patience(failures)
	slow := transport.NewSlow(failures, patience, tellSlow)
	defer slow.End()
	generation := d.all.generation.Load()
	share := d.all.share
	if err := share.Take(); err != nil {
		return nil, err
	}
	nc, err := d.all.dialer.Dial(ctx, d.all.endpoint.Addr(), patience)
	if err != nil {
		share.Return()
		return nil, err
	}
	slow.Connected()
	c := newDialled()
	c.conn, err = d.worker.attach(nc, share.Return, func(driver netpoll.Driver) *conn {
		c := d.pool.newConn(d.worker.core, driver, c, additional)
		c.handshake.generation = generation
		return c
	})
	if err != nil {
		share.Return()
		return nil, err
	}
	return d.greeting(ctx, c, patience)
}

// greeting waits until the backend has greeted.
func (d *connector) greeting(ctx context.Context, c *dialled, patience time.Duration) (*dialled, error) {
	late := time.NewTimer(patience)
	defer late.Stop()
	giveUp := session.ErrFinished
	select {
	case <-c.ready:
		return c, nil
	case <-c.over:
	case <-late.C:
		giveUp = tooLate(patience)
	case <-ctx.Done():
	}
	d.worker.run(func(*core) {
		if !c.Greeted() {
			c.Close(giveUp)
		}
	})
	select {
	case <-c.ready: // after all
		return c, nil
	default:
		return nil, c.handshake.err
	}
}

// end ends a connection that is not needed any more.
func (d *connector) end(c *dialled) { d.worker.run(func(*core) { c.Close(session.ErrFinished) }) }

// dialAdditional makes one more connection and stays with it.
func (d *connector) dialAdditional() {
	failures := 0
	d.worker.run(func(*core) { failures = d.pool.growFailures })
	c, err := d.attempt(d.ctx, failures, func(error) {}, true)
	if err != nil {
		d.worker.run(d.pool.growFailed)
		if d.ctx.Err() == nil {
			d.all.reportFailure(fmt.Errorf("one more connection, for calls that wait for a stream: %w", err))
		}
		return
	}
	select {
	case <-c.over:
	case <-d.ctx.Done():
		d.end(c)
	}
}
