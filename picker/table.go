package picker

import "math/bits"

// table lays endpoints side by side on a line of integer positions, each as wide as its weight, and finds the
// endpoint at a position in constant time, however many there are and however unequal.
type table struct {
	slots []slot
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

// newTable lays out endpoints by weight, which must be positive. Weights are divided by what they have in
// common, so that equal ones are 1.
func newTable(endpoints []*Endpoint, weight func(*Endpoint) uint64) *table {
	common := uint64(0)
	for _, e := range endpoints {
		common = gcd(common, weight(e))
	}
	t := &table{slots: make([]slot, len(endpoints))}
	for i, e := range endpoints {
		t.total += weight(e) / common
		t.slots[i] = slot{t.total, e, e.refs}
	}
	t.shift = max(0, bits.Len64(t.total/uint64(len(endpoints)))-1)
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
func (t *table) at(pos uint64) int {
	i := int(t.first[pos>>t.shift])
	for t.slots[i].end <= pos {
		i++
	}
	return i
}

// begin is the first position of slot i.
func (t *table) begin(i int) uint64 {
	if i == 0 {
		return 0
	}
	return t.slots[i-1].end
}

// width is how many positions slot i has.
func (t *table) width(i int) uint64 { return t.slots[i].end - t.begin(i) }

func byWeight(e *Endpoint) uint64 { return uint64(e.instance.Weight) }
func alike(*Endpoint) uint64      { return 1 }

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
