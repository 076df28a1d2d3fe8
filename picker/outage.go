package picker

import (
	"fmt"
	"strings"
	"sync/atomic"
)

// outage is why a subset has no endpoint that is ready.
type outage struct {
	unconnected []*Endpoint
	failures    *atomic.Uint64 // of the pool
	last        atomic.Pointer[lastErrors]
}

// lastErrors is what LastErrors found.
type lastErrors struct {
	failures uint64 // of the pool, when it looked
	text     string
}

// LastErrors says, when no endpoint is ready, for the one that failed last why, and for the one that lost its
// connection last and has not failed yet. It is empty if there is nothing to say.
func (g *Generation) LastErrors(subset string) string {
	o := g.subset(subset).outage
	if o == nil {
		return ""
	}
	failures := o.failures.Load()
	found := o.last.Load()
	if found == nil || found.failures != failures { // in an outage many calls ask, of many endpoints
		found = &lastErrors{failures, lastOf(o.unconnected)}
		o.last.Store(found)
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
