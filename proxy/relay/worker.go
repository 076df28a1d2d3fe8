package relay

import (
	"errors"
	"math"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
	"github.com/lbproxy/lbproxy/proxy/relay/netpoll"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// worker drives one core: it holds the lock and tells the time, and drivers do the core's I/O.
type worker struct {
	log     *zap.Logger
	metrics *metrics.Relay
	began   time.Time
	poller  *netpoll.Poller // nil where there is none: goroutines read, and Go's timers tell the time

	mu       sync.Mutex // protects everything below, and all of the core:
	core     *core
	setAlarm func(now, at time.Duration) // calls Expire when the worker is as old as at
	alarmAt  time.Time                   // when it will be; zero for not at all
	awaiting map[<-chan struct{}]bool
	closed   chan struct{}  // closed by close
	helpers  sync.WaitGroup // goroutines that wait for generations
}

func newWorker(cfg Config, index int, m *metrics.Relay, log *zap.Logger) *worker {
	w := &worker{
		log: log, metrics: m, began: time.Now(),
		awaiting: map[<-chan struct{}]bool{}, closed: make(chan struct{}),
	}
	w.core = newCore(cfg, index, m, w)
	return w
}

// newPoller makes what drives sockets, or says why nothing does; see [netpoll.NewPoller].
type newPoller = func(host netpoll.Host, patient bool) (*netpoll.Poller, error)

// start chooses what drives sockets and tells the time. It is called before anything else. Where GOMAXPROCS is no more
// than there are workers, a poller that kept a thread to itself would keep all other goroutines waiting.
func (w *worker) start(newPoller newPoller) {
	p, err := newPoller(w, runtime.GOMAXPROCS(0) > w.core.cfg.Workers)
	if err != nil {
		w.log.Warn("goroutines do what a poller of sockets would do at less cost", zap.Error(err))
		timer := time.AfterFunc(math.MaxInt64, w.expire)
		w.setAlarm = func(now, at time.Duration) { timer.Reset(at - now) }
		return
	}
	w.poller, w.setAlarm = p, p.SetAlarm
	go p.Run() // ends by close, which waits for it
}

// run calls into the core, and writes out what comes of it.
func (w *worker) run(f func(*core)) {
	w.Lock(w.Age())
	defer w.Unlock()
	w.core.step(nil, func() { f(w.core) })
	w.Flush()
}

// Age implements [netpoll.Host]. It costs half of what time.Now does, which asks for the time of day as well.
func (w *worker) Age() time.Duration { return time.Since(w.began) }

// Lock implements [netpoll.Host].
func (w *worker) Lock(age time.Duration) {
	w.mu.Lock()
	w.core.setNow(w.began.Add(age))
}

// Unlock implements [netpoll.Host].
func (w *worker) Unlock() { w.mu.Unlock() }

// Flush implements [netpoll.Host].
func (w *worker) Flush() { w.core.flush() }

// Pending implements [netpoll.Host].
func (w *worker) Pending() bool { return len(w.core.dirty) > 0 }

// Busy implements [netpoll.Host].
func (w *worker) Busy() bool { return w.core.calls > 0 }

// Worked implements [netpoll.Host].
func (w *worker) Worked(d time.Duration) { w.metrics.Worked(w.core.index, d) }

// Expire implements [netpoll.Host].
func (w *worker) Expire() {
	w.alarmAt = time.Time{}
	w.core.step(nil, w.core.expire)
}

func (w *worker) expire() {
	w.Lock(w.Age())
	defer w.Unlock()
	w.Expire()
	w.Flush()
}

// onDefect implements host.
func (w *worker) onDefect(defect any) {
	w.log.Error("defect in the handling of a connection, which is closed; please report it",
		zap.Any("defect", defect), zap.ByteString("stack", debug.Stack()))
}

// wakeAt implements host.
func (w *worker) wakeAt(t time.Time) {
	// One that is too early does no harm: it sets the next. Most are for deadlines that calls do not reach.
	if t.IsZero() || !w.alarmAt.IsZero() && !t.Before(w.alarmAt) {
		return
	}
	w.alarmAt = t
	w.setAlarm(w.core.now.Sub(w.began), t.Sub(w.began))
}

// wakeWhen implements host.
func (w *worker) wakeWhen(again <-chan struct{}) {
	if w.awaiting[again] {
		return
	}
	w.awaiting[again] = true
	w.helpers.Go(func() { // ends with the generation that again belongs to, or by close
		select {
		case <-again:
		case <-w.closed:
			return
		}
		w.run(func(c *core) {
			delete(w.awaiting, again)
			c.repickWaiting()
		})
	})
}

// close ends what waits, and connections that are still there. Those of callers have ended before.
func (w *worker) close() {
	close(w.closed)
	w.helpers.Wait()
	if w.poller != nil {
		w.poller.Close()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.setAlarm(0, math.MaxInt64)
	w.setAlarm = func(time.Duration, time.Duration) {}
}

// attach makes a connection of the core's out of one to a peer, and starts to read it. Ended is called when both
// have ended. If it fails, nc is closed.
func (w *worker) attach(nc net.Conn, ended func(), make func(netpoll.Driver) *conn) (c *conn, err error) {
	start := func(d netpoll.Driver) netpoll.Conn {
		w.core.step(nil, func() { c = make(d) })
		if c == nil {
			return nil
		}
		return c
	}
	peer := transport.Peer(nc)
	err = netpoll.ErrNoSocket
	if w.poller != nil {
		err = w.poller.Attach(nc, peer, start, ended)
	}
	if errors.Is(err, netpoll.ErrNoSocket) {
		err = netpoll.Go(w, nc, peer, start, ended)
	}
	return c, err
}

// connEnded implements host. What ends by its peer's doing is logged, unless that is told as why an endpoint is not ready.
func (w *worker) connEnded(c *conn, why error) {
	told := c.handshake != nil && !c.handshake.additional && !c.Leaving()
	var foreign *transport.Foreign
	switch {
	case errors.As(why, &foreign):
		foreign.Log(w.log, c.driver.Peer(), c.listener.addr)
	case !told && (session.IsViolation(why) || errors.Is(why, session.ErrKeepalive)):
		w.log.Warn("a connection is ended because of its peer", zap.Stringer("peer", c.side),
			zap.Stringer("address", c.driver.Peer()), zap.String("cause", string(causeOf(why))), zap.Error(why))
	}
}
