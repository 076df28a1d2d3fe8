package relay

import (
	"errors"
	"math"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// worker drives one core: it holds the lock, and drivers do the core's I/O and waiting.
type worker struct {
	log     *zap.Logger
	metrics *metrics.Relay
	began   time.Time
	poller  *poller // nil where there is none: goroutines read, and Go's timers tell the time

	mu       sync.Mutex // protects everything below, and all of the core:
	core     *core
	setAlarm func(time.Duration) // calls expire after that time
	alarmAt  time.Time           // when it will be; zero for not at all
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

// start chooses what drives sockets and tells the time. It is called before anything else.
func (w *worker) start(newPoller func(*worker) (*poller, error)) {
	p, err := newPoller(w)
	if err != nil {
		w.log.Warn("goroutines do what a poller of sockets would do at less cost", zap.Error(err))
		timer := time.AfterFunc(math.MaxInt64, func() { w.run(w.expire) })
		w.setAlarm = func(d time.Duration) { timer.Reset(d) }
		return
	}
	w.poller, w.setAlarm = p, p.alarm.set
	go p.run() // ends by close, which waits for it
}

// enter calls into the core, and writes out what comes of it.
func (w *worker) run(f func(*core)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.setNow(w.age())
	w.step(func() { f(w.core) })
	w.flush()
}

func (w *worker) setNow(age time.Duration) { w.core.now = w.began.Add(age) }

// age is how long the worker has been there. It costs half of what time.Now does, which asks for the time of day as well.
func (w *worker) age() time.Duration { return time.Since(w.began) }

// step lets the core do something, now.
func (w *worker) step(f func()) {
	w.contain(nil, func() {
		f()
		w.core.enforceLimits()
	})
}

// contain calls f. A defect in it costs the connection that is being handled, c to begin with, and no other.
func (w *worker) contain(c *conn, f func()) {
	defer func() {
		if defect := recover(); defect != nil {
			w.onDefect(defect)
		}
	}()
	w.core.current = c
	f()
}

func (w *worker) onDefect(defect any) {
	w.metrics.Defect()
	w.log.Error("defect in the handling of a connection, which is closed; please report it",
		zap.Any("defect", defect), zap.ByteString("stack", debug.Stack()))
	if c := w.core.current; c != nil {
		w.endAfterDefect(c)
	}
	w.core.set(&w.core.resume, w.core.now)
}

func (w *worker) endAfterDefect(c *conn) {
	defer func() {
		if recover() != nil {
			c.abandon()
		}
	}()
	c.end(errDefect)
}

// wakeAt implements host.
func (w *worker) wakeAt(t time.Time) {
	// One that is too early does no harm: it sets the next. Most are for deadlines that calls do not reach.
	if t.IsZero() || !w.alarmAt.IsZero() && !t.Before(w.alarmAt) {
		return
	}
	w.alarmAt = t
	w.setAlarm(t.Sub(w.core.now))
}

// expire is called when the alarm has gone off.
func (w *worker) expire(c *core) {
	w.alarmAt = time.Time{}
	c.expire()
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

// dial implements host.
func (w *worker) dial(p *connPool) { p.additional.Go(p.dialAdditional) }

// close ends what waits, and connections that are still there. Those of callers have ended before.
func (w *worker) close() {
	close(w.closed)
	w.helpers.Wait()
	if w.poller != nil {
		w.poller.close()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.setAlarm(math.MaxInt64)
	w.setAlarm = func(time.Duration) {}
}

// errNoSocket is why a poller does not take a connection.
var errNoSocket = errors.New("not a plain socket")

// attach makes a connection of the core's out of one to a peer, and starts to read it. Ended is called when both
// have ended. If it fails, nc is closed.
func (w *worker) attach(nc net.Conn, ended func(), make func(driver) *conn) (*conn, error) {
	if w.poller != nil {
		if c, err := w.poller.attach(nc, ended, make); !errors.Is(err, errNoSocket) {
			return c, err
		}
	}
	return attachBlocking(w, nc, ended, make), nil
}

// flush writes out what the core has to be written.
func (w *worker) flush() {
	for len(w.core.dirty) > 0 {
		last := len(w.core.dirty) - 1
		c := w.core.dirty[last]
		w.core.dirty = w.core.dirty[:last]
		c.driver.flush()
	}
	w.core.copyBorrowed()
	w.metrics.SetMemory(w.core.index, w.core.memory.used)
}

// lingerTimeout is how long a peer may take to read the last of what it is sent, and to close a connection that we
// have ended. Closing before that, with input unread, would have TCP take back what was written last, such as why
// the connection ends.
const lingerTimeout = time.Second

// logEnd says why a connection ends, if that is its peer's doing, and if it is not told as why an endpoint is not ready.
func (w *worker) logEnd(c *conn, peer net.Addr, why error) {
	told := c.handshake != nil && !c.handshake.additional && !c.leaving
	var foreign *transport.Foreign
	switch {
	case errors.As(why, &foreign):
		foreign.Log(w.log, peer, c.listener.addr)
	case !told && (isViolation(why) || errors.Is(why, errKeepalive)):
		w.log.Warn("a connection is ended because of its peer", zap.Stringer("peer", c.side),
			zap.Stringer("address", peer), zap.String("cause", string(causeOf(why))), zap.Error(why))
	}
}
