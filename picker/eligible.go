package picker

// reason is why an endpoint gets no new calls.
type reason uint8

const (
	eligible    reason = iota // it gets them
	leaving                   // it is no longer registered
	drained                   // its weight is 0
	unconnected               // the engine has no connection to it
)

// eligibility is the one judgement, from all the facts of an endpoint, of whether it may be picked.
func (e *Endpoint) eligibility() reason {
	switch {
	case e.leaving:
		return leaving
	case e.instance.Weight == 0:
		return drained
	case e.conn == nil || e.connectivity.state != Ready:
		return unconnected
	}
	return eligible
}

// roster is the members of a subset by their eligibility, each list sorted by address.
type roster struct {
	candidates           []Candidate // with the weights that they are registered with
	unconnected, drained []*Endpoint
}

// newRoster returns an empty roster with room for as many candidates as are expected.
func newRoster(expected int) *roster { return &roster{candidates: make([]Candidate, 0, expected)} }

func (r *roster) add(e *Endpoint, why reason) {
	switch why {
	case eligible:
		r.candidates = append(r.candidates, Candidate{e, e.instance.Weight})
	case unconnected:
		r.unconnected = append(r.unconnected, e)
	case drained:
		r.drained = append(r.drained, e)
	}
}
