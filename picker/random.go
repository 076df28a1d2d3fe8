package picker

import "math/rand/v2"

type random struct{ *weightTable }

func newRandom(candidates []Candidate, _ picker) picker {
	return random{newWeightTable(candidates, byWeight)}
}

func (r random) pick(info *Info) *Endpoint {
	if len(info.Tried) > 0 {
		return r.pickUntried(info.Tried)
	}
	return r.slots[r.draw()].endpoint
}

func (r random) pickUntried(tried []*Endpoint) *Endpoint {
	var room [fewTried]int
	u := r.without(tried, room[:0])
	if u.total == 0 {
		return nil
	}
	return r.slots[u.draw()].endpoint
}

// draw returns the index of a slot, by weight.
func (t *weightTable) draw() int { return t.at(rand.Uint64N(t.total)) }
func (u *untried) draw() int     { return u.at(rand.Uint64N(u.total)) }
