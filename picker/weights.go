package picker

import (
	"math/bits"
	"slices"
	"strings"
)

// weightTable lays endpoints side by side on a line of integer positions, each as wide as its weight, and finds the
// endpoint at a position in constant time, however many there are and however unequal.
type weightTable struct {
	slots []slot // sorted by address
	total uint64 // positions in all

	// The line is also cut into buckets of 1<<shift positions, about as many as there are endpoints; first[b]
	// is the slot at the first position of bucket b. The search from there passes one slot on average,
	// because there are no more slots than buckets.
	first []uint32
	shift int
}

// slot is an endpoint's place on the line, with what a pick reads of it.
type slot struct {
	end      uint64 // the first position behind it
	endpoint *Endpoint
	refs     *refs // of the endpoint
}

// newWeightTable lays out candidates by weight. Weights are divided by their greatest common divisor, so that equal
// ones are 1.
func newWeightTable(candidates []Candidate, weight func(Candidate) uint64) *weightTable {
	common := uint64(0)
	for _, c := range candidates {
		common = gcd(common, weight(c))
	}
	t := &weightTable{slots: make([]slot, len(candidates))}
	for i, c := range candidates {
		t.total += weight(c) / common
		t.slots[i] = slot{t.total, c.Endpoint, c.refs}
	}
	t.shift = max(0, bits.Len64(t.total/uint64(len(candidates)))-1)
	t.first = make([]uint32, (t.total-1)>>t.shift+1)
	i := 0
	for b := range t.first {
		for t.slots[i].end <= uint64(b)<<t.shift {
			i++
		}
		t.first[b] = uint32(i)
	}
	return t
}

// at returns the index of the slot at position pos, which must be below total.
func (t *weightTable) at(pos uint64) int {
	i := int(t.first[pos>>t.shift])
	for t.slots[i].end <= pos {
		i++
	}
	return i
}

// begin is the first position of slot i.
func (t *weightTable) begin(i int) uint64 {
	if i == 0 {
		return 0
	}
	return t.slots[i-1].end
}

// width is how many positions slot i has.
func (t *weightTable) width(i int) uint64 { return t.slots[i].end - t.begin(i) }

// find returns the index of an address's slot.
func (t *weightTable) find(addr string) (i int, found bool) {
	return slices.BinarySearchFunc(t.slots, addr, func(s slot, addr string) int {
		return strings.Compare(s.endpoint.addr, addr)
	})
}

// untried is a view of a table without the slots of the endpoints that a call has tried. The other slots close up, each
// as wide as before.
type untried struct {
	table *weightTable
	gaps  []int  // the slots left out, in order
	total uint64 // positions left
}

// fewTried is for how many endpoints tried a pick allocates nothing.
const fewTried = 4

// without is the table without the slots of some endpoints. Room backs the gaps.
func (t *weightTable) without(tried []*Endpoint, room []int) untried {
	u := untried{t, room, t.total}
	for _, e := range tried {
		if i, found := t.find(e.addr); found && t.slots[i].endpoint == e {
			u.gaps = append(u.gaps, i)
		}
	}
	slices.Sort(u.gaps)
	u.gaps = slices.Compact(u.gaps)
	for _, i := range u.gaps {
		u.total -= t.width(i)
	}
	return u
}

// at returns the index, in the table, of the slot at position pos, which must be below total.
func (u *untried) at(pos uint64) int {
	for _, i := range u.gaps {
		if pos < u.table.begin(i) {
			break
		}
		pos += u.table.width(i)
	}
	return u.table.at(pos)
}

func byWeight(c Candidate) uint64 { return uint64(c.Weight) }
func alike(Candidate) uint64      { return 1 }

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
