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

// line has those who wait in it called, no more than a batch in a period. The process wakes up for a batch, which costs
// less than to wake up for each.
type line struct {
	period time.Duration
	batch  int

	mu      sync.Mutex   // protects:
	waiting [2]list.List // of *Place: those that go first, and the others
	left    int          // that may be called at once, while the timer is set
	timer   *time.Timer  // ends the period
	timed   bool         // the timer is set
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
	if !l.timed {
		l.begin()
	} else if l.left > 0 && l.callOne() {
		l.left--
	}
	return p
}

// begin begins a period, if there is anybody to be called in it.
func (l *line) begin() {
	called := 0
	for called < l.batch && l.callOne() {
		called++
	}
	l.left, l.timed = l.batch-called, called > 0
	switch {
	case !l.timed:
	case l.timer == nil:
		l.timer = time.AfterFunc(l.period, l.next)
	default:
		l.timer.Reset(l.period)
	}
}

func (l *line) next() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begin()
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
