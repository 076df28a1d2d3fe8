package transport

import (
	"container/list"
	"sync"
	"time"
)

const (
	// soonFailures is after how many failures an endpoint is no longer among those that go first.
	soonFailures = 4
	// revivedCalls is how many are called for one that has come back, so that they are ever more if all have.
	revivedCalls = 2
)

// line has those who wait in it called one after the other, at intervals.
type line struct {
	gap time.Duration

	mu      sync.Mutex   // protects:
	waiting [2]list.List // of *Place: those that go first, and the others
	timer   *time.Timer  // calls the next one
	resting bool         // until the timer fires
}

// A Place is one in the line.
type Place struct {
	line   *line
	in     *list.List
	at     *list.Element
	called chan struct{}
}

func (l *line) join(first bool) *Place {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &Place{line: l, in: &l.waiting[1], called: make(chan struct{})}
	if first {
		p.in = &l.waiting[0]
	}
	p.at = p.in.PushBack(p)
	if !l.resting {
		l.next()
	}
	return p
}

// next calls one and rests for a while; it does not rest if there is none.
func (l *line) next() {
	if l.resting = l.callOne(); !l.resting {
		return
	}
	if l.timer == nil {
		l.timer = time.AfterFunc(l.gap, l.rested)
	} else {
		l.timer.Reset(l.gap)
	}
}

func (l *line) rested() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next()
}

// call calls up to n at once.
func (l *line) call(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range n {
		if !l.callOne() {
			return
		}
	}
}

func (l *line) callOne() bool {
	for i := range l.waiting {
		if at := l.waiting[i].Front(); at != nil {
			l.waiting[i].Remove(at)
			close(at.Value.(*Place).called)
			return true
		}
	}
	return false
}

// Called is closed when it is the place's turn.
func (p *Place) Called() <-chan struct{} { return p.called }

// Leave takes the place out of the line, if it is there still.
func (p *Place) Leave() {
	p.line.mu.Lock()
	defer p.line.mu.Unlock()
	p.in.Remove(p.at) // nothing if it is not there
}
