package proxy

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/transport"
	"github.com/lbproxy/lbproxy/traffic"
)

// service is one that is watched: its pool, its connections' settings, and how it is used.
type service struct {
	// Immutable:
	name    string
	pool    *picker.Pool
	calls   *metrics.Calls
	log     *zap.Logger
	ctx     context.Context
	stop    context.CancelCauseFunc
	before  <-chan struct{} // closed when a service of this name that was released has closed; nil if none was
	watched chan struct{}   // closed when watch has returned
	ended   chan struct{}   // closed when close has returned

	live *transport.Live // the settings of its connections

	listed atomic.Bool                     // in the rules, that is
	alone  atomic.Bool                     // nothing is left of a released service, whose series had the same names
	series atomic.Pointer[metrics.Service] // nil until the name is known to be more than a caller's invention

	// refs counts the calls that use the service; the bit closed is set when it is released and none can any more.
	refs     atomic.Int64
	acquired atomic.Uint64 // by how many calls it has been used so far
	recent   metrics.RecentCalls

	// Owned by the directory's sweeper:
	sweptAcquired uint64
	idleSince     time.Time
}

const closed = int64(1) << 62

// newService returns a service that is not watched yet. Before is as in service.
func newService(name string, settings traffic.Service, listed bool, before <-chan struct{}, d *Directory) *service {
	s := &service{
		name:      name,
		calls:     d.cfg.Calls,
		log:       d.cfg.Log.With(zap.String("service", name)),
		before:    before,
		watched:   make(chan struct{}),
		ended:     make(chan struct{}),
		live:      transport.NewLive(upstream(settings)),
		idleSince: time.Now(),
	}
	dial := func(e *picker.Endpoint) picker.Conn { return d.connector.Dial(e, s.live) }
	s.pool = picker.NewPool(name, settings.Policy, dial, d.cfg.Endpoints, d.cfg.Log)
	s.ctx, s.stop = context.WithCancelCause(context.Background())
	s.alone.Store(before == nil)
	s.list(listed)
	return s
}

func upstream(settings traffic.Service) transport.Upstream {
	return transport.Upstream{Keepalive: settings.Keepalive}
}

// configure returns the service under other settings. The balancing policy, which its calls share, changes at once.
func (e entry) configure(settings traffic.Service, listed bool) entry {
	if settings.Policy != e.settings.Policy {
		e.pool.SetPolicy(settings.Policy)
	}
	e.list(listed)
	return entry{e.service, &settings}
}

// list notes whether the rules list the service.
func (s *service) list(listed bool) {
	s.listed.Store(listed)
	if listed && s.alone.Load() {
		s.openSeries()
	}
}

// watch keeps the pool up to date until the service is closed.
func (s *service) watch(source discovery.Source) {
	defer close(s.watched)
	if s.before != nil {
		<-s.before
		s.alone.Store(true)
		if s.listed.Load() {
			s.openSeries()
		}
	}
	err := source.Run(s.ctx, s.name, func(snapshot discovery.Snapshot) {
		if len(snapshot.Instances)+len(snapshot.Poisoned) > 0 {
			s.openSeries()
		}
		s.pool.Update(snapshot)
	})
	if s.ctx.Err() == nil {
		s.log.Error("service cannot be watched; its instances stay as they are", zap.Error(err))
	}
}

// openSeries gives the service series of its own.
func (s *service) openSeries() {
	if s.series.Load() == nil {
		s.series.CompareAndSwap(nil, s.calls.Service(s.name))
	}
}

// seriesOr returns the service's series, or others if it has none yet.
func (s *service) seriesOr(others *metrics.Service) *metrics.Service {
	if series := s.series.Load(); series != nil {
		return series
	}
	return others
}

// acquire counts one more call that uses the service, until release. It fails if the service has been closed.
func (s *service) acquire() bool {
	if s.refs.Add(1)&closed != 0 {
		s.refs.Add(-1)
		return false
	}
	s.acquired.Add(1)
	return true
}

func (s *service) release() { s.refs.Add(-1) }

// closeIfUnused closes the service to calls, unless one uses it.
func (s *service) closeIfUnused() bool { return s.refs.CompareAndSwap(0, closed) }

// idleFor is how long no call has used the service, to the precision with which it is called.
func (s *service) idleFor() time.Duration {
	acquired := s.acquired.Load()
	if s.refs.Load() > 0 || acquired != s.sweptAcquired {
		s.sweptAcquired, s.idleSince = acquired, time.Now()
	}
	return time.Since(s.idleSince)
}

// close ends the watch, and with their last call the endpoints.
func (s *service) close() {
	defer close(s.ended)
	s.stop(errReleased)
	<-s.watched
	s.pool.Close()
	if series := s.series.Load(); series != nil {
		series.Forget()
	}
}

// ServiceStatus is a service as people see it.
type ServiceStatus struct {
	Service     string `json:"service"`
	Listed      bool   `json:"listed"`            // in the configuration; others are watched on demand
	Version     string `json:"version,omitempty"` // to which calls are limited that name none
	WaitTimeout string `json:"wait_timeout"`
	InFlight    int64  `json:"in_flight"`
	Calls       uint64 `json:"calls"`
	RegistryStatus
	// Recent is of the calls of the last minute, if there were any: those too that reached no instance.
	Recent *metrics.Recent `json:"recent,omitempty"`
	picker.Status
}

// RegistryStatus is how the registry stands by what is known of a service, as people see it.
type RegistryStatus struct {
	Registry      RegistryState `json:"registry"`
	Confirmed     *float64      `json:"confirmed,omitempty"`      // seconds since the registry last confirmed it
	RegistryError string        `json:"registry_error,omitempty"` // why the registry cannot confirm it now
	RegistryNote  string        `json:"registry_note,omitempty"`  // what else is to be known of how it does
}

// RegistryState is what the registry says of a service.
type RegistryState string

// The states.
const (
	RegistryUnsynced RegistryState = "unsynced" // it has not answered yet
	RegistryUnknown  RegistryState = "unknown"  // nothing has been registered under the name
	RegistryEmpty    RegistryState = "empty"    // nothing that can be used is registered now
	RegistryFilled   RegistryState = "filled"   // instances are registered
)

// Status describes every service, sorted by name.
func (d *Directory) Status() []ServiceStatus {
	all := []ServiceStatus{}
	for _, s := range d.routing.Load().services {
		all = append(all, d.status(s))
	}
	slices.SortFunc(all, func(a, b ServiceStatus) int { return cmp.Compare(a.Service, b.Service) })
	return all
}

// ServiceStatus describes one service; false if it is not watched.
func (d *Directory) ServiceStatus(name string) (ServiceStatus, bool) {
	s, is := d.routing.Load().services[name]
	if !is {
		return ServiceStatus{}, false
	}
	return d.status(s), true
}

func (d *Directory) status(s entry) ServiceStatus {
	return ServiceStatus{
		RegistryStatus: registryStatus(s.pool.Current(), d.standing(s.name)),

		Service:     s.name,
		Listed:      s.listed.Load(),
		Version:     s.settings.Version,
		WaitTimeout: s.settings.WaitTimeout.String(),
		InFlight:    s.refs.Load() &^ closed,
		Calls:       s.acquired.Load(),
		Recent:      s.recent.Read(time.Now()),
		Status:      s.pool.Status(),
	}
}

func registryStatus(g *picker.Generation, standing discovery.Standing) RegistryStatus {
	r := RegistryStatus{Registry: RegistryFilled, RegistryNote: standing.Note}
	switch {
	case !g.Synced:
		r.Registry = RegistryUnsynced
	case !g.Registered():
		r.Registry = RegistryUnknown
	case g.Available("").Instances == 0:
		r.Registry = RegistryEmpty
	}
	if !standing.Confirmed.IsZero() {
		r.Confirmed = new(time.Since(standing.Confirmed).Seconds())
	}
	if standing.Err != nil {
		r.RegistryError = standing.Err.Error()
	}
	return r
}

// standing is how the registry stands by what is known of a service, where the source can tell.
func (d *Directory) standing(name string) discovery.Standing {
	if r, ok := d.cfg.Source.(discovery.Reporter); ok {
		return r.Standing(name)
	}
	return discovery.Standing{}
}
