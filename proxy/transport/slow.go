package transport

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// slow is after what time an attempt to connect is told of that has not failed yet: before a call has given up.
const slow = 500 * time.Millisecond

// tooSlow is why there is no connection yet.
type tooSlow struct {
	patience  time.Duration
	connected bool // by TCP
}

func (e tooSlow) Error() string {
	if e.connected {
		return fmt.Sprintf("TCP connects but HTTP/2 does not: it has not greeted (SETTINGS) within %s; it has up to %s", slow, e.patience)
	}
	return fmt.Sprintf("TCP has not connected within %s; it has up to %s", slow, e.patience)
}

// Slow watches an attempt to connect, and tells why there is no connection yet if it takes its time.
type Slow struct {
	connected atomic.Bool
	end       func()
}

// NewSlow watches an attempt that has so much patience for each of TCP and HTTP/2. Where attempts have failed before, it is
// known that there is no connection, and nothing is told.
func NewSlow(failures int, patience time.Duration, tell func(error)) *Slow {
	s := &Slow{end: func() {}}
	if failures > 0 {
		return s
	}
	told := make(chan struct{})
	timer := time.AfterFunc(slow, func() {
		defer close(told)
		tell(tooSlow{patience, s.connected.Load()})
	})
	s.end = sync.OnceFunc(func() {
		if !timer.Stop() {
			<-told
		}
	})
	return s
}

// Connected says that TCP has connected.
func (s *Slow) Connected() { s.connected.Store(true) }

// End says that the attempt has come to an end. Nothing is told any more when it returns.
func (s *Slow) End() { s.end() }
