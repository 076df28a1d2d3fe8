package picker

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
)

// rotation walks round a table in steps of a fixed stride that has no factor in common with the table's
// length: each turn of the walk stands on every position exactly once, so each endpoint gets exactly its
// weight's share of it. A stride near the golden section spreads an endpoint's positions evenly over the turn
// (three-distance theorem); where all weights are equal, a stride of 1 does.
//
// The state is one counter, so that picking is one atomic addition, and any number of goroutines share the
// same walk.
type rotation struct {
	*table
	stride uint64
	start  uint64 // position of the first pick

	// On a cache line of its own: every pick writes it, on whatever core, and only reads the rest.
	_     [cacheLine]byte
	picks atomic.Uint64 // made
	_     [cacheLine]byte
}

const cacheLine = 64

func newWeightedRoundRobin(endpoints []*Endpoint, prev picker) picker {
	return newRotation(newTable(endpoints, byWeight), prev)
}

func newRoundRobin(endpoints []*Endpoint, prev picker) picker {
	return newRotation(newTable(endpoints, alike), prev)
}

// newRotation goes on where prev stands, so that a change of membership neither picks an endpoint twice in a
// row nor sends every proxy's next call to the same one. Without prev it starts anywhere.
func newRotation(t *table, prev picker) *rotation {
	r := &rotation{table: t, stride: stride(t)}
	if old, ok := prev.(*rotation); ok {
		if pos, ok := r.resume(old); ok {
			r.start = pos
			return r
		}
	}
	r.start = rand.Uint64N(t.total)
	return r
}

func stride(t *table) uint64 {
	if t.total == uint64(len(t.slots)) {
		return 1
	}
	const golden = 0.6180339887498949
	near := uint64(float64(t.total) * golden)
	for d := uint64(0); ; d++ { // ends: 1 and total-1 have no factor in common with total
		if gcd(near+d, t.total) == 1 {
			return near + d
		}
		if gcd(near-d, t.total) == 1 {
			return near - d
		}
	}
}

// resume finds the position in r of the pick that old would make next, or soonest where that endpoint is gone.
func (r *rotation) resume(old *rotation) (pos uint64, ok bool) {
	next := old.picks.Load()
	for n := range uint64(len(old.slots)) {
		oldPos := old.position(next + n)
		i := old.at(oldPos)
		j, found := slices.BinarySearchFunc(r.slots, old.slots[i].endpoint.addr, func(s slot, addr string) int {
			return strings.Compare(s.endpoint.addr, addr)
		})
		if found {
			// The same place within the endpoint's width, because it decides who is next but one. The
			// place has a width of its own, in which we stand anywhere: rounding always the same way
			// would let constant changes walk in a circle that passes somebody by.
			within := (float64(oldPos-old.begin(i)) + rand.Float64()) / float64(old.width(i))
			return r.begin(j) + min(r.width(j)-1, uint64(within*float64(r.width(j)))), true
		}
	}
	return 0, false
}

func (r *rotation) pick() *Endpoint {
	return r.slots[r.at(r.position(r.picks.Add(1)-1))].endpoint
}

// position is where the walk stands at its n-th pick, counted from 0.
func (r *rotation) position(n uint64) uint64 {
	hi, lo := bits.Mul64(n%r.total, r.stride)
	lo, carry := bits.Add64(lo, r.start, 0)
	return bits.Rem64(hi+carry, lo, r.total)
}
