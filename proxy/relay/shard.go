package relay

import (
	"math"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/metrics"
)

// shard drives one core: it holds the lock, and does the core's I/O and waiting.
type shard struct {
	log     *zap.Logger
	metrics *metrics.Relay
	alone   bool // one thread runs all of Go's code

	mu       sync.Mutex // protects everything below, and all of the core:
	core     *core
	timer    *time.Timer
	timerAt  time.Time // zero if it is not to fire
	awaiting map[<-chan struct{}]bool
	flushing bool           // somebody is about to flush
	closed   chan struct{}  // closed by close
	helpers  sync.WaitGroup // goroutines that wait for generations
}

func newShard(cfg Config, index int, m *metrics.Relay, log *zap.Logger) *shard {
	s := &shard{log: log, metrics: m, alone: runtime.GOMAXPROCS(0) == 1, awaiting: map[<-chan struct{}]bool{}, closed: make(chan struct{})}
	s.core = newCore(cfg, index, m, s)
	s.timer = time.AfterFunc(math.MaxInt64, s.expire)
	return s
}

// enter calls into the core, and writes out what comes of it.
func (s *shard) enter(f func(*core)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.do(func() { f(s.core) })
	s.flush()
}

// do has the core do something, now.
func (s *shard) do(f func()) {
	s.core.now = time.Now()
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
	s.wakeAt(s.core.timers.next()) // expire may not have come to it
	c := s.core.blame
	if c == nil {
		return
	}
	defer func() {
		if recover() != nil { // what is left of it is in no state to be ended in order
			c.dead, c.streams = true, nil
			c.transport.close()
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
	if s.alone {
		s.flushing = true
		s.mu.Unlock()
		runtime.Gosched()
		s.mu.Lock()
		s.flushing = false
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
