package picker

import (
	"slices"
	"strings"
	"time"

	"github.com/lbproxy/lbproxy/metrics"
)

// Status is a pool as people see it.
type Status struct {
	Policy    string           `json:"policy"`
	Synced    bool             `json:"synced"`
	Revision  int64            `json:"revision"`
	Instances []EndpointStatus `json:"instances"`
	Poisoned  []PoisonedStatus `json:"poisoned,omitempty"`
}

// PoisonedStatus is a registry entry that cannot be used, as people see it.
type PoisonedStatus struct {
	Key      string `json:"key"`
	Revision int64  `json:"revision"`
	Fault    string `json:"fault"`
}

// EndpointStatus is an endpoint as people see it. State is connecting, ready, failed, or, for one that has
// left its service while calls run on it, draining.
type EndpointStatus struct {
	Addr           string    `json:"addr"`
	Key            string    `json:"key,omitempty"`
	Version        string    `json:"version"`
	Weight         int       `json:"weight"`
	CreateRevision int64     `json:"create_revision"`
	ModRevision    int64     `json:"mod_revision"`
	State          string    `json:"state"`
	Since          time.Time `json:"since"`
	InFlight       uint64    `json:"in_flight"`
	Calls          uint64    `json:"calls"`

	Recent      *metrics.Recent `json:"recent,omitempty"` // of the calls of the last minute, if there were any
	LastError   string          `json:"last_error,omitempty"`
	LastErrorAt time.Time       `json:"last_error_at,omitzero"`
}

// Status describes the pool and all its endpoints, sorted by address.
func (p *Pool) Status() Status {
	s, series := p.status()
	now := time.Now()
	for i := range s.Instances {
		s.Instances[i].Recent = series[i].Recent(now)
	}
	slices.SortFunc(s.Instances, func(a, b EndpointStatus) int { return strings.Compare(a.Addr, b.Addr) })
	return s
}

// status is Status without what takes long for many endpoints, and the series to read that from.
func (p *Pool) status() (s Status, series []*metrics.Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s = Status{Policy: p.policyName, Synced: p.synced, Revision: p.revision, Instances: []EndpointStatus{}}
	for _, e := range p.endpoints {
		s.Instances = append(s.Instances, e.status())
		series = append(series, e.metrics)
	}
	for _, entry := range p.poisoned {
		s.Poisoned = append(s.Poisoned, PoisonedStatus(entry))
	}
	return s, series
}

func (e *Endpoint) status() EndpointStatus {
	s := EndpointStatus{
		Addr:           e.addr,
		Key:            e.instance.Key,
		Version:        e.instance.Version,
		Weight:         e.instance.Weight,
		CreateRevision: e.instance.CreateRevision,
		ModRevision:    e.instance.ModRevision,
		State:          e.connectivity.state.String(),
		Since:          e.connectivity.since,
		InFlight:       e.refs.calls(),
		Calls:          e.calls.Load(),
	}
	if e.eligibility() == leaving {
		s.State = "draining"
	}
	if f := e.failure.Load(); f != nil {
		s.LastError, s.LastErrorAt = f.err.Error(), f.at
	}
	return s
}
