package session

import "iter"

// FairQueue is a FIFO per source, served round-robin, of streams that wait for the same thing: a window, or a connection
// to be opened on. No source starves another. The streams link it.
type FairQueue struct {
	flows       map[*Conn]*flow
	first, last *flow
	free        *flow // used ones, linked by after
	len         int
}

// flow is the streams of one source in a queue.
type flow struct {
	source        *Conn
	first, last   *Stream
	before, after *flow
}

// Len is how many streams wait.
func (q *FairQueue) Len() int { return q.len }

// All are the streams that wait.
func (q *FairQueue) All() iter.Seq[*Stream] {
	return func(yield func(*Stream) bool) {
		for f := q.first; f != nil; f = f.after {
			for s := f.first; s != nil; s = s.after {
				if !yield(s) {
					return
				}
			}
		}
	}
}

// Add appends a stream to its source's flow. It must not be queued yet.
func (q *FairQueue) Add(s *Stream) {
	f := q.flows[s.source]
	if f == nil {
		f = q.newFlow(s.source)
	}
	s.flow, s.before, s.after = f, f.last, nil
	if f.last != nil {
		f.last.after = s
	} else {
		f.first = s
	}
	f.last = s
	q.len++
}

func (q *FairQueue) newFlow(source *Conn) *flow {
	f := q.free
	if f == nil {
		f = new(flow)
	} else {
		q.free = f.after
	}
	*f = flow{source: source}
	if q.flows == nil {
		q.flows = map[*Conn]*flow{}
	}
	q.flows[source] = f
	q.append(f)
	return f
}

// append makes a flow the last to be served.
func (q *FairQueue) append(f *flow) {
	f.before, f.after = q.last, nil
	if q.last != nil {
		q.last.after = f
	} else {
		q.first = f
	}
	q.last = f
}

func (q *FairQueue) unlink(f *flow) {
	if f.before != nil {
		f.before.after = f.after
	} else {
		q.first = f.after
	}
	if f.after != nil {
		f.after.before = f.before
	} else {
		q.last = f.before
	}
}

// Remove takes a stream out, if it is in the queue.
func (q *FairQueue) Remove(s *Stream) {
	f := s.flow
	if f == nil {
		return
	}
	if s.before != nil {
		s.before.after = s.after
	} else {
		f.first = s.after
	}
	if s.after != nil {
		s.after.before = s.before
	} else {
		f.last = s.before
	}
	s.flow, s.before, s.after = nil, nil, nil
	q.len--
	if f.first == nil {
		q.unlink(f)
		delete(q.flows, f.source)
		*f = flow{after: q.free}
		q.free = f
	}
}

// peek is the stream whose turn it is; nil if there is none.
func (q *FairQueue) peek() *Stream {
	if q.first == nil {
		return nil
	}
	return q.first.first
}

// Pop takes out the stream whose turn it is; nil if there is none. Its source's next one waits for the turns of all
// others.
func (q *FairQueue) Pop() *Stream {
	s := q.peek()
	if s == nil {
		return nil
	}
	f := q.first
	q.Remove(s)
	if f.first != nil && f != q.last {
		q.unlink(f)
		q.append(f)
	}
	return s
}
