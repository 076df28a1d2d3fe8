package picker

import "github.com/lbproxy/lbproxy/discovery"

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
}

// Availability is what a call may choose from.
type Availability struct {
	Instances int // registered
	Serving   int // of those, the ones that take new calls: their weight is not 0
	Ready     int // of those, the ones that are connected
	// LastError says for one of the endpoints that could not be reached why, when none is ready.
	LastError string
}

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
		all:      p.group(p.order, prev.all),
		versions: map[string]group{},
		changed:  make(chan struct{}),
	}
	byVersion := map[string][]*Endpoint{}
	for _, e := range p.order {
		byVersion[e.instance.Version] = append(byVersion[e.instance.Version], e)
	}
	for version, endpoints := range byVersion {
		if len(endpoints) == len(p.order) {
			g.versions[version] = g.all
			continue
		}
		g.versions[version] = p.group(endpoints, prev.versions[version])
	}
	return g
}

func (p *Pool) group(endpoints []*Endpoint, prev group) group {
	g := group{Availability: Availability{Instances: len(endpoints)}}
	var ready []*Endpoint
	lastErr := ""
	for _, e := range endpoints {
		if e.instance.Weight == 0 {
			continue
		}
		g.Serving++
		if e.state == Ready {
			ready = append(ready, e)
		} else if e.lastErr != nil {
			lastErr = e.addr + ": " + e.lastErr.Error()
		}
	}
	if len(ready) == 0 {
		g.LastError = lastErr
		return g
	}
	g.Ready = len(ready)
	g.picker = p.policy(ready, prev.picker)
	return g
}
