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

	all      group
	versions map[string]group
	changed  chan struct{}
}

// Registered says that the registry has, or has had, something under the service's name.
func (g *Generation) Registered() bool { return g.Known || len(g.Poisoned) > 0 }

// group is the endpoints that a call may go to.
type group struct {
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

// Pick returns the endpoint for one call, which the caller must give back by End or Return. Version limits
// the choice to instances of that version; empty, it does not. Pick returns nil when there is none to pick.
func (g *Generation) Pick(version string) *Endpoint {
	group := g.group(version)
	if group.picker == nil {
		return nil
	}
	// An endpoint may have closed since this generation was made. More than a few such and the next
	// generation is about to come.
	for range 3 {
		if e := group.picker.pick(); e.acquire() {
			return e
		}
	}
	return nil
}

// Available says what there is to pick from, and so why Pick returned nil.
func (g *Generation) Available(version string) Availability { return g.group(version).Availability }

// Changed is closed when another generation has taken this one's place.
func (g *Generation) Changed() <-chan struct{} { return g.changed }

// lastErrors is what LastErrors has found.
type lastErrors struct {
	failures uint64 // of the pool, before
	text     string
}

// LastErrors says, when no endpoint is ready, for the one that failed last why, and for the one that lost its connection
// last and has not failed yet. It is empty if there is nothing to say.
func (g *Generation) LastErrors(version string) string {
	group := g.group(version)
	if group.last == nil {
		return ""
	}
	failures := group.failures.Load()
	found := group.last.Load()
	if found == nil || found.failures != failures { // in an outage many calls ask, of many endpoints
		found = &lastErrors{failures, lastOf(group.unready)}
		group.last.Store(found)
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

func (g *Generation) group(version string) group {
	if version == "" {
		return g.all
	}
	return g.versions[version]
}

// generation makes the generation that the pool's present state asks for.
func (p *Pool) generation(prev *Generation) *Generation {
	g := &Generation{
		Synced: p.synced, Known: p.known, Poisoned: p.poisoned,
		all:     p.group(p.order, prev.all),
		changed: make(chan struct{}),
	}
	g.versions = p.byVersion(g.all, prev)
	return g
}

func (p *Pool) byVersion(all group, prev *Generation) map[string]group {
	groups := map[string]group{}
	if version, alike := p.onlyVersion(); alike {
		groups[version] = all
	} else {
		for version, members := range p.membersByVersion(prev) {
			groups[version] = p.group(members, prev.versions[version])
		}
	}
	for version, last := range prev.versions {
		if _, stays := groups[version]; stays {
			continue
		}
		if gone := p.group(nil, last); time.Since(gone.ServedUntil) < versionMemory {
			groups[version] = gone
		}
	}
	return groups
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

func (p *Pool) group(endpoints []*Endpoint, prev group) group {
	g := group{Availability: Availability{Instances: len(endpoints)}}
	ready := make([]*Endpoint, 0, len(endpoints))
	var unready []*Endpoint
	for _, e := range endpoints {
		switch {
		case e.instance.Weight == 0:
		case e.state == Ready:
			ready = append(ready, e)
		default:
			unready = append(unready, e)
		}
	}
	g.Serving, g.Ready = len(ready)+len(unready), len(ready)
	switch {
	case g.Serving > 0:
	case prev.Serving > 0:
		g.ServedUntil = time.Now()
	default:
		g.ServedUntil = prev.ServedUntil
	}
	if len(ready) == 0 {
		g.unready, g.failures, g.last = unready, &p.failures, new(atomic.Pointer[lastErrors])
		return g
	}
	g.picker = p.policy(ready, prev.picker)
	return g
}
