package relay

import (
	"container/heap"
	"time"
)

// timers holds the streams that something must happen to at some time, the soonest first.
type timers struct{ h timerHeap }

// set has st come due at t; the zero time is never.
func (t *timers) set(st *stream, at time.Time) {
	switch {
	case at.IsZero():
		t.remove(st)
	case st.timer < 0:
		st.due = at
		heap.Push(&t.h, st)
	case !st.due.Equal(at):
		st.due = at
		heap.Fix(&t.h, st.timer)
	}
}

func (t *timers) remove(st *stream) {
	if st.timer >= 0 {
		heap.Remove(&t.h, st.timer)
	}
}

// due takes out a stream whose time has come; nil if there is none.
func (t *timers) due(now time.Time) *stream {
	if len(t.h) == 0 || t.h[0].due.After(now) {
		return nil
	}
	return heap.Pop(&t.h).(*stream)
}

// next is when the next one comes due; zero if there is none.
func (t *timers) next() time.Time {
	if len(t.h) == 0 {
		return time.Time{}
	}
	return t.h[0].due
}

type timerHeap []*stream

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].timer, h[j].timer = i, j
}

func (h *timerHeap) Push(x any) {
	st := x.(*stream)
	st.timer = len(*h)
	*h = append(*h, st)
}

func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	st := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	st.timer = -1
	return st
}
