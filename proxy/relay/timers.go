package relay

import (
	"container/heap"
	"time"
)

// timer calls fire at some time.
type timer struct {
	fire  func(c *core)
	of    *conn // that a defect in fire costs; nil for none
	due   time.Time
	place int // among the timers, counted from 1; 0 if it is not set
}

// timers holds the timers that are set, the soonest first.
type timers struct{ h timerHeap }

// set has t fire at a time; the zero time is never.
func (ts *timers) set(t *timer, at time.Time) {
	switch {
	case at.IsZero():
		ts.remove(t)
	case t.place == 0:
		t.due = at
		heap.Push(&ts.h, t)
	case !t.due.Equal(at):
		t.due = at
		heap.Fix(&ts.h, t.place-1)
	}
}

func (ts *timers) remove(t *timer) {
	if t.place > 0 {
		heap.Remove(&ts.h, t.place-1)
	}
}

// takeDue takes out a timer whose time has come; nil if there is none.
func (ts *timers) takeDue(now time.Time) *timer {
	if len(ts.h) == 0 || ts.h[0].due.After(now) {
		return nil
	}
	return heap.Pop(&ts.h).(*timer)
}

// next is when the next one comes due; zero if there is none.
func (ts *timers) next() time.Time {
	if len(ts.h) == 0 {
		return time.Time{}
	}
	return ts.h[0].due
}

type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	*h = append(*h, t)
	t.place = len(*h)
}

func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.place = 0
	return t
}
