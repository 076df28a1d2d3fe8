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

// shard drives one core: it holds the lock, and has drivers do the core's I/O and waiting.
type shard struct {
	log     *zap.Logger
	metrics *metrics.Relay
	began   time.Time
	poller  *poller // nil where there is none: goroutines read, and Go's timers tell the time

	mu       sync.Mutex // protects everything below, and all of the core:
	core     *core
	setAlarm func(time.Duration) // has expire called after that time
	alarmAt  time.Time           // when it will be; zero for not at all
	awaiting map[<-chan struct{}]bool
	closed   chan struct{}  // closed by close
	helpers  sync.WaitGroup // goroutines that wait for generations
}

func newShard(cfg Config, index int, m *metrics.Relay, log *zap.Logger) *shard {
	s := &shard{
		log: log, metrics: m, began: time.Now(),
		awaiting: map[<-chan struct{}]bool{}, closed: make(chan struct{}),
	}
	s.core = newCore(cfg, index, m, s)
	return s
}

// start chooses what drives sockets and tells the time. It is called before anything else.
func (s *shard) start(newPoller func(*shard) (*poller, error)) {
	p, err := newPoller(s)
	if err != nil {
		s.log.Warn("goroutines do what a poller of sockets would do at less cost", zap.Error(err))
		timer := time.AfterFunc(math.MaxInt64, func() { s.enter(s.expire) })
		s.setAlarm = func(d time.Duration) { timer.Reset(d) }
		return
	}
	s.poller, s.setAlarm = p, p.alarm.set
	go p.run() // ends by close, which waits for it
}

// enter calls into the core, and writes out what comes of it.
func (s *shard) enter(f func(*core)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setNow(s.age())
	s.do(func() { f(s.core) })
	s.flush()
}

func (s *shard) setNow(age time.Duration) { s.core.now = s.began.Add(age) }

// age is how long the shard has been there. It costs half of what time.Now does, which asks for the time of day as well.
func (s *shard) age() time.Duration { return time.Since(s.began) }

// do has the core do something, now.
func (s *shard) do(f func()) {
	s.guard(nil, func() {
		f()
		s.core.relieve()
	})
}

// guard calls f. A defect in it costs the connection that is being handled, c to begin with, and no other.
func (s *shard) guard(c *conn, f func()) {
	defer func() {
		if defect := recover(); defect != nil {
			s.contain(defect)
		}
	}()
	s.core.blame = c
	f()
}

func (s *shard) contain(defect any) {
	s.metrics.Defect()
	s.log.Error("defect in the handling of a connection, which is closed; please report it",
		zap.Any("defect", defect), zap.ByteString("stack", debug.Stack()))
	if c := s.core.blame; c != nil {
		s.endAfterDefect(c)
	}
	s.core.set(&s.core.resume, s.core.now)
}

func (s *shard) endAfterDefect(c *conn) {
	defer func() {
		if recover() != nil {
			c.abandon()
		}
	}()
	c.end(errDefect)
}

// wakeAt implements wishes.
func (s *shard) wakeAt(t time.Time) {
	// One that is too early does no harm: it sets the next. Most are for deadlines that calls do not reach.
	if t.IsZero() || !s.alarmAt.IsZero() && !t.Before(s.alarmAt) {
		return
	}
	s.alarmAt = t
	s.setAlarm(t.Sub(s.core.now))
}

// expire is called when the alarm has gone off.
func (s *shard) expire(c *core) {
	s.alarmAt = time.Time{}
	c.expire()
}

// wakeWhen implements wishes.
func (s *shard) wakeWhen(again <-chan struct{}) {
	if s.awaiting[again] {
		return
	}
	s.awaiting[again] = true
	s.helpers.Go(func() { // ends with the generation that again belongs to, or by close
		select {
		case <-again:
		case <-s.closed:
			return
		}
		s.enter(func(c *core) {
			delete(s.awaiting, again)
			c.retry()
		})
	})
}

// dial implements wishes.
func (s *shard) dial(u *upstream) { u.additional.Go(u.dialAdditional) }

// close ends what waits, and connections that are still there. Those of callers have ended before.
func (s *shard) close() {
	close(s.closed)
	s.helpers.Wait()
	if s.poller != nil {
		s.poller.close()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setAlarm(math.MaxInt64)
	s.setAlarm = func(time.Duration) {}
}

// errNoSocket is why a poller does not take a connection.
var errNoSocket = errors.New("not a plain socket")

// attach makes a connection of the core's out of one to a peer, and starts to read it. Ended is called when both
// have ended. If it fails, nc is closed.
func (s *shard) attach(nc net.Conn, ended func(), make func(driver) *conn) (*conn, error) {
	if s.poller != nil {
		if c, err := s.poller.attach(nc, ended, make); !errors.Is(err, errNoSocket) {
			return c, err
		}
	}
	return attachBlocking(s, nc, ended, make), nil
}

// flush writes out what the core has to be written.
func (s *shard) flush() {
	for len(s.core.dirty) > 0 {
		last := len(s.core.dirty) - 1
		c := s.core.dirty[last]
		s.core.dirty = s.core.dirty[:last]
		c.driver.flush()
	}
	s.core.keepBorrowed()
	s.metrics.SetMemory(s.core.index, s.core.memory.used)
}

// lingerTimeout is how long a peer may take to read the last of what it is sent, and to close a connection that we
// have ended. Closing before that, with input unread, would have TCP take back what was written last, such as why
// the connection ends.
const lingerTimeout = time.Second

// logEnd says why a connection ends, if that is its peer's doing, and if it is not told as why an endpoint is not ready.
func (s *shard) logEnd(c *conn, peer net.Addr, why error) {
	told := c.link != nil && !c.link.additional && !c.leaving
	var foreign *transport.Foreign
	switch {
	case errors.As(why, &foreign):
		foreign.Log(s.log, peer, c.front.listener)
	case !told && (isViolation(why) || errors.Is(why, errKeepalive)):
		s.log.Warn("a connection is ended because of its peer", zap.Stringer("peer", c.side),
			zap.Stringer("address", peer), zap.String("cause", string(causeOf(why))), zap.Error(why))
	}
}
