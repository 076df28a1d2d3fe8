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
)

// service is one that is watched: its pool, how it is balanced, and how it is used.
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
	closed  chan struct{}   // closed when close has returned

	config atomic.Pointer[ServiceConfig]
	listed atomic.Bool                     // in the configuration, that is
	alone  atomic.Bool                     // nothing is left of a released service, whose series had the same names
	series atomic.Pointer[metrics.Service] // nil until the name is known to be more than a caller's invention

	// users counts the calls inside; the bit retired is set when the service is released and none can enter.
	users   atomic.Int64
	entered atomic.Uint64
	recent  metrics.RecentCalls

	// Owned by the directory's sweeper:
	sweptEntered uint64
	idleSince    time.Time
}

const retired = int64(1) << 62

// newService returns a service that is not watched yet. Before is as in service.
func newService(name string, cfg ServiceConfig, listed bool, before <-chan struct{}, d *Directory) *service {
	s := &service{
		name:      name,
		calls:     d.cfg.Calls,
		log:       d.cfg.Log.With(zap.String("service", name)),
		pool:      picker.NewPool(name, cfg.Policy, d.cfg.Dial, d.cfg.Endpoints, d.cfg.Log),
		before:    before,
		watched:   make(chan struct{}),
		closed:    make(chan struct{}),
		idleSince: time.Now(),
	}
	s.ctx, s.stop = context.WithCancelCause(context.Background())
	s.alone.Store(before == nil)
	s.configure(cfg, listed)
	return s
}

func (s *service) configure(cfg ServiceConfig, listed bool) {
	if old := s.config.Swap(&cfg); old != nil && old.Policy != cfg.Policy {
		s.pool.SetPolicy(cfg.Policy)
	}
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

// enter lets a call in, unless the service has been released.
func (s *service) enter() bool {
	if s.users.Add(1)&retired != 0 {
		s.users.Add(-1)
		return false
	}
	s.entered.Add(1)
	return true
}

func (s *service) leave() { s.users.Add(-1) }

// retire closes the door, if nobody is inside.
func (s *service) retire() bool { return s.users.CompareAndSwap(0, retired) }

// idleFor is how long nobody has been in the service, to the precision with which it is called.
func (s *service) idleFor() time.Duration {
	entered := s.entered.Load()
	if s.users.Load() > 0 || entered != s.sweptEntered {
		s.sweptEntered, s.idleSince = entered, time.Now()
	}
	return time.Since(s.idleSince)
}

// close ends the watch, and with their last call the endpoints.
func (s *service) close() {
	defer close(s.closed)
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
	for _, s := range *d.services.Load() {
		all = append(all, d.status(s))
	}
	slices.SortFunc(all, func(a, b ServiceStatus) int { return cmp.Compare(a.Service, b.Service) })
	return all
}

// ServiceStatus describes one service; false if it is not watched.
func (d *Directory) ServiceStatus(name string) (ServiceStatus, bool) {
	s := (*d.services.Load())[name]
	if s == nil {
		return ServiceStatus{}, false
	}
	return d.status(s), true
}

func (d *Directory) status(s *service) ServiceStatus {
	cfg := s.config.Load()
	return ServiceStatus{
		RegistryStatus: registryStatus(s.pool.Current(), d.standing(s.name)),

		Service:     s.name,
		Listed:      s.listed.Load(),
		Version:     cfg.Version,
		WaitTimeout: cfg.WaitTimeout.String(),
		InFlight:    s.users.Load() &^ retired,
		Calls:       s.entered.Load(),
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
