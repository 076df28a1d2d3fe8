package proxy

import (
	"maps"

	"github.com/lbproxy/lbproxy/traffic"
)

// routingTable is what calls are routed by: rules, and the services that are watched under them. It is one, so that no
// call sees the routes of one configuration with the settings of another.
type routingTable struct {
	rules    *traffic.Rules
	services map[string]entry
}

// entry is a service and what the rules say of it.
type entry struct {
	*service
	settings *traffic.Service
}

// with returns the table with one more service.
func (t *routingTable) with(s entry) *routingTable {
	services := maps.Clone(t.services)
	services[s.name] = s
	return &routingTable{t.rules, services}
}

// without returns the table with one service less.
func (t *routingTable) without(name string) *routingTable {
	services := maps.Clone(t.services)
	delete(services, name)
	return &routingTable{t.rules, services}
}

// acquire fills in what is to be done with a call, and finds its service, which the call releases when it ends.
func (d *Directory) acquire(req *traffic.Request, a *traffic.Action) (entry, *Error) {
	for {
		table := d.routing.Load()
		if err := table.rules.Match(req, a); err != nil {
			return entry{}, errUnrouted(req, err)
		}
		s, is := table.services[a.Service]
		switch {
		case !is:
			if err := d.demand(a.Service); err != nil {
				return entry{}, err
			}
		case s.acquire():
			return s, nil
		}
		// Look again: it is watched by now, perhaps under other rules; or it was closed since we looked, and is out of the
		// table as well.
	}
}
