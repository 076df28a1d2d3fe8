package picker

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync/atomic"
)

// roundRobin walks round a table in steps of a fixed stride that has no factor in common with the table's
// length: each rotation stands on every position exactly once, so each endpoint gets exactly its weight's share
// of it. A stride near the golden section spreads an endpoint's positions evenly over the rotation
// (three-distance theorem); where all weights are equal, a stride of 1 does.
//
// The state is one counter, so that picking is one atomic addition, and any number of goroutines share the
// same walk.
type roundRobin struct {
	*weightTable
	stride uint64
	start  uint64 // position of the first turn

	// On a cache line of its own: every pick writes it, on whatever core, and only reads the rest.
	_     [cacheLine]byte
	turns atomic.Uint64 // taken
	_     [cacheLine]byte
}

const cacheLine = 64

func newWeightedRoundRobin(candidates []Candidate, prev picker) picker {
	return newRoundRobin(newWeightTable(candidates, byWeight), prev)
}

func newUnweightedRoundRobin(candidates []Candidate, prev picker) picker {
	return newRoundRobin(newWeightTable(candidates, alike), prev)
}

// newRoundRobin continues where prev stands, so that a change of membership neither picks an endpoint twice in a
// row nor sends every proxy's next call to the same one. Without prev it starts anywhere.
func newRoundRobin(t *weightTable, prev picker) *roundRobin {
	r := &roundRobin{weightTable: t, stride: stride(t)}
	if old, ok := prev.(*roundRobin); ok {
		if pos, ok := r.resume(old); ok {
			r.start = pos
			return r
		}
	}
	r.start = rand.Uint64N(t.total)
	return r
}

func stride(t *weightTable) uint64 {
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

// resume finds the position in r of the turn that old would take next, or soonest where that endpoint is gone.
func (r *roundRobin) resume(old *roundRobin) (pos uint64, ok bool) {
	next := old.turns.Load()
	for n := range uint64(len(old.slots)) {
		oldPos := old.position(next + n)
		i := old.at(oldPos)
		if j, found := r.find(old.slots[i].endpoint.addr); found {
			// The same place within the endpoint's width, because it decides who is next but one. The
			// place has a width of its own, in which we stand anywhere: rounding always the same way
			// would let constant changes walk in a circle that passes somebody by.
			within := (float64(oldPos-old.begin(i)) + rand.Float64()) / float64(old.width(i))
			return r.begin(j) + min(r.width(j)-1, uint64(within*float64(r.width(j)))), true
		}
	}
	return 0, false
}

func (r *roundRobin) pick(info *Info) *Endpoint {
	if len(info.Tried) > 0 {
		return r.pickUntried(info.Tried)
	}
	return r.slots[r.at(r.position(r.turn()))].endpoint
}

// pickUntried takes one turn, as pick does. If it belongs to an endpoint that has been tried, it goes to one of the
// others, by weight, and nobody else's turn moves.
func (r *roundRobin) pickUntried(tried []*Endpoint) *Endpoint {
	var room [fewTried]int
	u := r.without(tried, room[:0])
	if u.total == 0 {
		return nil
	}
	turn := r.turn()
	i := r.at(r.position(turn))
	if slices.Contains(u.gaps, i) {
		i = u.at(spread(turn, u.total))
	}
	return r.slots[i].endpoint
}

func (r *roundRobin) turn() uint64 { return r.turns.Add(1) - 1 }

// position is where the walk stands at its n-th turn, counted from 0.
func (r *roundRobin) position(n uint64) uint64 {
	hi, lo := bits.Mul64(n%r.total, r.stride)
	lo, carry := bits.Add64(lo, r.start, 0)
	return bits.Rem64(hi+carry, lo, r.total)
}

// spread maps a turn to a position below total. Turns at any regular distance spread evenly, because the fractional
// parts of the golden section's multiples do (Weyl's equidistribution theorem).
func spread(turn, total uint64) uint64 {
	const golden = 0x9E3779B97F4A7C15 // of 1<<64
	pos, _ := bits.Mul64(turn*golden, total)
	return pos
}
