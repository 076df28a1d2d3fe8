package picker

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lbproxy/lbproxy/discovery"
)

// A Generation is what can be picked from between one change of a pool and the next. It is immutable.
type Generation struct {
	// Synced says that discovery has published a snapshot; Known that an instance has been registered at
	// some time since the pool was made.
	Synced, Known bool
	// Poisoned is the service's present registry entries that cannot be used.
	Poisoned []discovery.Poisoned

	all      subset
	versions map[string]subset
	changed  chan struct{}
}

// Registered says that the registry has, or has had, something under the service's name.
func (g *Generation) Registered() bool { return g.Known || len(g.Poisoned) > 0 }

// subset is the endpoints that a call may go to.
type subset struct {
	Availability
	picker picker // nil when none is ready

	// When none is ready:
	unready  []*Endpoint // those that serve
	failures *atomic.Uint64
	last     *atomic.Pointer[lastErrors]
}

// Availability is what a call may choose from.
type Availability struct {
	Instances int // registered
	Serving   int // of those, the ones that take new calls: their weight is not 0
	Ready     int // of those, the ones that are connected
	// ServedUntil is, when none serves, since when; zero if none ever has, as far as is remembered.
	ServedUntil time.Time
}

// For so long a version is remembered that has no instance any more.
const versionMemory = time.Hour

// pick returns the endpoint for one call; nil when there is none to pick.
func (g *Generation) pick(info *Info) *Endpoint {
	picker := g.subset(info.Subset).picker
	if picker == nil {
		return nil
	}
	e := picker.pick(info)
	if e == nil {
		info.Tried = info.Tried[:0]
		e = picker.pick(info)
	}
	return e
}

// Available says what there is to pick from, and so why nothing was picked.
func (g *Generation) Available(subset string) Availability { return g.subset(subset).Availability }

// Changed is closed when another generation has taken this one's place.
func (g *Generation) Changed() <-chan struct{} { return g.changed }

// lastErrors is what LastErrors has found.
type lastErrors struct {
	failures uint64 // of the pool, before
	text     string
}

// LastErrors says, when no endpoint is ready, for the one that failed last why, and for the one that lost its connection
// last and has not failed yet. It is empty if there is nothing to say.
func (g *Generation) LastErrors(subset string) string {
	s := g.subset(subset)
	if s.last == nil {
		return ""
	}
	failures := s.failures.Load()
	found := s.last.Load()
	if found == nil || found.failures != failures { // in an outage many calls ask, of many endpoints
		found = &lastErrors{failures, lastOf(s.unready)}
		s.last.Store(found)
	}
	return found.text
}

func lastOf(endpoints []*Endpoint) string {
	var last [Failed + 1]*failure
	var of [Failed + 1]*Endpoint
	for _, e := range endpoints {
		if f := e.failure.Load(); f != nil && (last[f.state] == nil || f.at.After(last[f.state].at)) {
			last[f.state], of[f.state] = f, e
		}
	}
	var texts []string
	if f := last[Failed]; f != nil {
		texts = append(texts, fmt.Sprintf("%s: %v", of[Failed].addr, f.err))
	}
	if f := last[Connecting]; f != nil {
		texts = append(texts, fmt.Sprintf("%s, connecting again: %v", of[Connecting].addr, f.err))
	}
	return strings.Join(texts, "; ")
}

func (g *Generation) subset(name string) subset {
	if name == "" {
		return g.all
	}
	return g.versions[name]
}

// generation makes the generation that the pool's present state asks for.
func (p *Pool) generation(prev *Generation) *Generation {
	g := &Generation{
		Synced: p.synced, Known: p.known, Poisoned: p.poisoned,
		all:     p.subset(p.order, prev.all),
		changed: make(chan struct{}),
	}
	g.versions = p.byVersion(g.all, prev)
	return g
}

func (p *Pool) byVersion(all subset, prev *Generation) map[string]subset {
	subsets := map[string]subset{}
	if version, alike := p.onlyVersion(); alike {
		subsets[version] = all
	} else {
		for version, members := range p.membersByVersion(prev) {
			subsets[version] = p.subset(members, prev.versions[version])
		}
	}
	for version, last := range prev.versions {
		if _, stays := subsets[version]; stays {
			continue
		}
		if gone := p.subset(nil, last); time.Since(gone.ServedUntil) < versionMemory {
			subsets[version] = gone
		}
	}
	return subsets
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

func (p *Pool) membersByVersion(prev *Generation) map[string][]*Endpoint {
	members := make(map[string][]*Endpoint, len(prev.versions))
	for _, e := range p.order {
		version := e.instance.Version
		if members[version] == nil {
			members[version] = make([]*Endpoint, 0, prev.versions[version].Instances)
		}
		members[version] = append(members[version], e)
	}
	return members
}

func (p *Pool) subset(endpoints []*Endpoint, prev subset) subset {
	s := subset{Availability: Availability{Instances: len(endpoints)}}
	ready := make([]Candidate, 0, len(endpoints))
	var unready []*Endpoint
	for _, e := range endpoints {
		switch {
		case e.instance.Weight == 0:
		case e.state == Ready:
			ready = append(ready, Candidate{e, e.instance.Weight})
		default:
			unready = append(unready, e)
		}
	}
	s.Serving, s.Ready = len(ready)+len(unready), len(ready)
	switch {
	case s.Serving > 0:
	case prev.Serving > 0:
		s.ServedUntil = time.Now()
	default:
		s.ServedUntil = prev.ServedUntil
	}
	if len(ready) == 0 {
		s.unready, s.failures, s.last = unready, &p.failures, new(atomic.Pointer[lastErrors])
		return s
	}
	s.picker = p.policy(ready, prev.picker)
	return s
}
