package picker

// leastRequest is the power of two choices. Drawing by weight and comparing by weight makes an idle
// service's shares equal its weights: every comparison ties, and ties keep the first draw.
type leastRequest struct{ *weightTable }

func newLeastRequest(candidates []Candidate, _ picker) picker {
	return leastRequest{newWeightTable(candidates, byWeight)}
}

func (l leastRequest) pick(info *Info) *Endpoint {
	if len(info.Tried) > 0 {
		return l.pickUntried(info.Tried)
	}
	return l.lessBusy(l.draw(), l.draw())
}

func (l leastRequest) pickUntried(tried []*Endpoint) *Endpoint {
	var room [fewTried]int
	u := l.without(tried, room[:0])
	if u.total == 0 {
		return nil
	}
	return l.lessBusy(u.draw(), u.draw())
}

func (l leastRequest) lessBusy(i, j int) *Endpoint {
	first, second := &l.slots[i], &l.slots[j]
	// second/width(j) < first/width(i), without dividing.
	if second.refs.calls()*l.width(i) < first.refs.calls()*l.width(j) {
		return second.endpoint
	}
	return first.endpoint
}
