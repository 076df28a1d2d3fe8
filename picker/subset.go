package picker

import "time"

// subset is the endpoints that a call may go to.
type subset struct {
	Availability
	picker picker  // nil when none is ready
	outage *outage // nil when one is
}

// Availability is what a call may choose from.
type Availability struct {
	Instances int // registered
	Serving   int // of those, the ones that take new calls: their weight is not 0
	Ready     int // of those, the ones that are connected
	// ServedUntil is, when none serves, since when; zero if none ever has, as far as is remembered.
	ServedUntil time.Time
}

// versionMemory is how long a version is remembered that has lost its last instance.
const versionMemory = time.Hour

// rosters divides the members by version and eligibility. A version that all of them have shares their roster.
func (p *Pool) rosters(prev *Generation) (all *roster, byVersion map[string]*roster) {
	all = newRoster(len(p.order))
	if version, alike := p.onlyVersion(); alike {
		for _, e := range p.order {
			all.add(e, e.eligibility())
		}
		return all, map[string]*roster{version: all}
	}
	byVersion = make(map[string]*roster, len(prev.subsets))
	for _, e := range p.order {
		version, why := e.instance.Version, e.eligibility()
		if byVersion[version] == nil {
			byVersion[version] = newRoster(prev.subsets[version].Instances)
		}
		all.add(e, why)
		byVersion[version].add(e, why)
	}
	return all, byVersion
}

// onlyVersion is the version of all instances; false if they are of several, or there is none.
func (p *Pool) onlyVersion() (version string, alike bool) {
	if len(p.instances) == 0 {
		return "", false
	}
	version = p.instances[0].Version
	for _, in := range p.instances[1:] {
		if in.Version != version {
			return "", false
		}
	}
	return version, true
}

// subset applies the policy to a roster. Prev is the subset that it replaces.
func (p *Pool) subset(r *roster, prev subset) subset {
	ready := len(r.candidates)
	serving := ready + len(r.unconnected)
	s := subset{Availability: Availability{Instances: serving + len(r.drained), Serving: serving, Ready: ready}}
	switch {
	case serving > 0:
	case prev.Serving > 0:
		s.ServedUntil = time.Now()
	default:
		s.ServedUntil = prev.ServedUntil
	}
	if ready == 0 {
		s.outage = &outage{unconnected: r.unconnected, failures: &p.failures}
		return s
	}
	s.picker = p.policy(r.candidates, prev.picker)
	return s
}
