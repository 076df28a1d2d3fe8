package relay

import (
	"math"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/lbproxy/lbproxy/metrics"
)

// shard drives one core: it holds the lock, and does the core's I/O and waiting.
type shard struct {
	log     *zap.Logger
	metrics *metrics.Relay
	alone   bool // one thread runs all of Go's code
	start   time.Time

	mu       sync.Mutex // protects everything below, and all of the core:
	core     *core
	timer    *time.Timer
	timerAt  time.Time // zero if it is not to fire
	awaiting map[<-chan struct{}]bool
	flushing bool           // somebody is about to flush
	feeds    uint           // how often something has been read
	vain     int            // yields on end in which nothing was
	closed   chan struct{}  // closed by close
	helpers  sync.WaitGroup // goroutines that wait for generations
}

func newShard(cfg Config, index int, m *metrics.Relay, log *zap.Logger) *shard {
	s := &shard{
		log: log.WithOptions(zap.WrapCore(sampled)), metrics: m, alone: runtime.GOMAXPROCS(0) == 1, start: time.Now(),
		awaiting: map[<-chan struct{}]bool{}, closed: make(chan struct{}),
	}
	s.core = newCore(cfg, index, m, s)
	s.timer = time.AfterFunc(math.MaxInt64, s.expire)
	return s
}

// sampled logs the first few of what peers can make happen without end, in every second.
func sampled(c zapcore.Core) zapcore.Core { return zapcore.NewSamplerWithOptions(c, time.Second, 5, 0) }

// enter calls into the core, and writes out what comes of it.
func (s *shard) enter(f func(*core)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.do(func() { f(s.core) })
	s.flush()
}

// do has the core do something, now.
func (s *shard) do(f func()) {
	s.core.now = s.start.Add(time.Since(s.start)) // time.Now asks for the time of day as well, which costs as much again
	s.guard(nil, func() {
		f()
		s.core.relieve()
	})
	s.metrics.SetMemory(s.core.index, s.core.memory.used)
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
	if t.IsZero() || !s.timerAt.IsZero() && !t.Before(s.timerAt) {
		return
	}
	s.timerAt = t
	s.timer.Reset(t.Sub(s.core.now))
}

func (s *shard) expire() {
	s.enter(func(c *core) {
		s.timerAt = time.Time{}
		c.expire()
	})
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

// close ends what waits. Connections have been closed before.
func (s *shard) close() {
	close(s.closed)
	s.helpers.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer.Stop()
}

// attach makes a connection of the core's out of a socket, and starts to read it.
func (s *shard) attach(nc net.Conn, make func(transport) *conn) *conn {
	k := newSocket(s, nc)
	s.enter(func(*core) {
		k.conn = make(k)
	})
	go k.read() // ends when the connection does
	return k.conn
}

// flushSoon flushes after other connections have been read, so that what comes of them rides along. It is of
// use as long as one thread does it all; to wake another costs more than is saved.
func (s *shard) flushSoon() {
	if s.flushing || len(s.core.dirty) == 0 {
		return
	}
	// Where yields have been in vain, one now and then finds out whether they still are.
	if s.alone && (s.vain < 8 || s.feeds%32 == 0) {
		before := s.feeds
		s.flushing = true
		s.mu.Unlock()
		runtime.Gosched()
		s.mu.Lock()
		s.flushing = false
		if s.vain++; s.feeds != before {
			s.vain = 0
		}
	}
	s.flush()
}

// flush writes out what the core has to be written. The lock is not held during system calls; what comes up
// meanwhile rides with the writer.
func (s *shard) flush() {
	for len(s.core.dirty) > 0 {
		last := len(s.core.dirty) - 1
		c := s.core.dirty[last]
		s.core.dirty = s.core.dirty[:last]
		c.transport.flush()
	}
}
