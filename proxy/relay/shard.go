package relay

import (
	"net"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"
)

// ackDelay is how long an answer to a PING may wait for other frames to go with. Peers that measure the
// bandwidth ping with nearly every message; answering at once would double the writes.
const ackDelay = 2 * time.Millisecond

// shard drives one core: it holds the lock, and does the core's I/O and waiting.
type shard struct {
	log *zap.Logger

	mu       sync.Mutex // protects everything below, and all of the core:
	core     *core
	timer    *time.Timer
	timerAt  time.Time
	acks     *time.Timer
	acking   bool
	awaiting map[<-chan struct{}]bool
	closed   chan struct{}  // closed by close
	helpers  sync.WaitGroup // goroutines that wait for generations
}

func newShard(log *zap.Logger) *shard {
	s := &shard{log: log, awaiting: map[<-chan struct{}]bool{}, closed: make(chan struct{})}
	s.core = newCore(s)
	return s
}

// enter calls into the core, and writes out what comes of it.
func (s *shard) enter(f func(*core)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.core)
	s.flush()
}

// wakeAt implements wishes.
func (s *shard) wakeAt(t time.Time) {
	switch {
	case t.IsZero() || t.Equal(s.timerAt):
	case s.timer == nil:
		s.timer = time.AfterFunc(time.Until(t), s.expire)
	default:
		s.timer.Reset(time.Until(t))
	}
	s.timerAt = t
}

func (s *shard) expire() {
	s.enter(func(c *core) {
		s.timerAt = time.Time{}
		c.expire(time.Now())
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

// ackSoon implements wishes.
func (s *shard) ackSoon() {
	if s.acking {
		return
	}
	s.acking = true
	if s.acks == nil {
		s.acks = time.AfterFunc(ackDelay, s.flushAcks)
		return
	}
	s.acks.Reset(ackDelay)
}

func (s *shard) flushAcks() {
	s.enter(func(c *core) {
		s.acking = false
		c.flushAcks()
	})
}

// close ends what waits. Connections have been closed before.
func (s *shard) close() {
	close(s.closed)
	s.helpers.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range []*time.Timer{s.timer, s.acks} {
		if t != nil {
			t.Stop()
		}
	}
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

// guard keeps a defect in the handling of one connection to that connection.
func (s *shard) guard(c *conn, f func()) {
	defer func() {
		if defect := recover(); defect != nil {
			s.log.Error("defect in the handling of a connection, which is closed; please report it",
				zap.Any("defect", defect), zap.ByteString("stack", debug.Stack()))
			c.end(errDefect)
		}
	}()
	f()
}

// flush writes out what the core has to be written. The lock is not held during system calls; what comes up
// meanwhile rides with the writer.
func (s *shard) flush() {
	for len(s.core.dirty) > 0 {
		last := len(s.core.dirty) - 1
		c := s.core.dirty[last]
		s.core.dirty = s.core.dirty[:last]
		c.transport.(*socket).flush()
	}
}
