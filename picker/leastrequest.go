package picker

// leastRequest is the power of two choices. Drawing by weight and comparing by weight makes an idle
// service's shares equal its weights: every comparison ties, and ties keep the first draw.
type leastRequest struct{ random }

func newLeastRequest(endpoints []*Endpoint, _ picker) picker {
	return leastRequest{random{newTable(endpoints, byWeight)}}
}

func (l leastRequest) pick() *Endpoint {
	i, j := l.draw(), l.draw()
	first, second := &l.slots[i], &l.slots[j]
	// second/width(j) < first/width(i), without dividing.
	if second.refs.calls()*l.width(i) < first.refs.calls()*l.width(j) {
		return second.endpoint
	}
	return first.endpoint
}
