package picker

import "math/rand/v2"

type random struct{ *table }

func newRandom(endpoints []*Endpoint, _ picker) picker {
	return random{newTable(endpoints, byWeight)}
}

func (r random) draw() int { return r.at(rand.Uint64N(r.total)) }

func (r random) pick() *Endpoint { return r.slots[r.draw()].endpoint }
