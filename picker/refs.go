package picker

import "sync/atomic"

// refs counts what keeps an endpoint open: its running calls, and its membership of the pool. At zero the count
// closes for good, and whoever brought it there closes the endpoint.
type refs struct{ n atomic.Int64 }

const (
	call   = int64(1)
	member = int64(1) << 32
	closed = int64(1) << 62
)

// add adds a call or a membership. It fails if the count has closed.
func (r *refs) add(n int64) bool {
	if r.n.Add(n)&closed != 0 {
		r.n.Add(-n)
		return false
	}
	return true
}

// remove takes back what add added, and reports whether that closed the count.
func (r *refs) remove(n int64) (last bool) {
	return r.n.Add(-n) == 0 && r.n.CompareAndSwap(0, closed)
}

// calls is the number of running calls.
func (r *refs) calls() uint64 { return uint64(r.n.Load() & (member - 1)) }

// refsSlab hands out counts that stand side by side in memory: least_request reads two of them at random for
// every pick, and of a hundred thousand endpoints the counts fit into the processor's cache, while the
// endpoints do not.
type refsSlab []refs

func (s *refsSlab) take() *refs {
	if len(*s) == 0 {
		*s = make(refsSlab, 1)
	}
	r := &(*s)[0]
	*s = (*s)[1:]
	return r
}
