package picker

import (
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

	all     subset
	subsets map[string]subset // by version
	changed chan struct{}
}

// generation makes the generation that the pool's present state asks for, in stages: who is eligible, in which subsets,
// and how those take turns.
func (p *Pool) generation(prev *Generation) *Generation {
	all, byVersion := p.rosters(prev)
	g := &Generation{
		Synced: p.synced, Known: p.known, Poisoned: p.poisoned,
		all:     p.subset(all, prev.all),
		subsets: make(map[string]subset, len(byVersion)),
		changed: make(chan struct{}),
	}
	for version, r := range byVersion {
		if r == all {
			g.subsets[version] = g.all
		} else {
			g.subsets[version] = p.subset(r, prev.subsets[version])
		}
	}
	for version, last := range prev.subsets {
		if byVersion[version] != nil {
			continue
		}
		if gone := p.subset(&roster{}, last); time.Since(gone.ServedUntil) < versionMemory {
			g.subsets[version] = gone
		}
	}
	return g
}

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

func (g *Generation) subset(name string) subset {
	if name == "" {
		return g.all
	}
	return g.subsets[name]
}

// Registered says that the registry has, or has had, something under the service's name.
func (g *Generation) Registered() bool { return g.Known || len(g.Poisoned) > 0 }

// Available says what there is to pick from, and so why nothing was picked.
func (g *Generation) Available(subset string) Availability { return g.subset(subset).Availability }

// Changed is closed when another generation has taken this one's place.
func (g *Generation) Changed() <-chan struct{} { return g.changed }
