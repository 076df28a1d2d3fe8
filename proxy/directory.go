package proxy

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
)

// ServiceConfig is how one service is balanced.
type ServiceConfig struct {
	Policy      string        // one of package picker's
	Version     string        // limits calls that name no version themselves; may be empty
	WaitTimeout time.Duration // how long a call waits for an endpoint to connect
	Keepalive   Keepalive
}

// Keepalive is how backends that say nothing while calls run are found dead by HTTP/2 PINGs.
type Keepalive struct {
	Time    time.Duration // of silence, after which a PING asks; 0 for never
	Timeout time.Duration // how long anything may take to come then
}

// DirectoryConfig says how a [Directory] watches services.
type DirectoryConfig struct {
	Source      discovery.Source
	Dial        picker.Dial
	IdleRelease time.Duration // after so long without a call, an on-demand service is watched no more
	MaxOnDemand int           // how many on-demand services may be watched
	Default     ServiceConfig // for services that the configuration does not list
	Calls       *metrics.Calls
	Endpoints   *metrics.Endpoints
	Log         *zap.Logger
}

// A Directory holds the services that are watched: those that the configuration lists, from the start, and
// others from their first call until they have been idle for long enough.
type Directory struct {
	// Immutable:
	cfg       DirectoryConfig
	end       chan struct{}  // closed by Close
	sweeping  sync.WaitGroup // the sweeper
	releasing sync.WaitGroup // services that are being closed

	// services is replaced, never modified: calls read it without a lock.
	services atomic.Pointer[map[string]*service]

	mu         sync.Mutex // protects, and whoever replaces services holds it:
	configured map[string]ServiceConfig
	closing    map[string]<-chan struct{} // by name, what tells that the service released last has closed
	closed     bool
}

var errReleased = errors.New("the service is watched no more")

// NewDirectory returns a directory that watches nothing yet. Close ends it.
func NewDirectory(cfg DirectoryConfig) *Directory {
	d := &Directory{cfg: cfg, end: make(chan struct{}), closing: map[string]<-chan struct{}{}}
	d.services.Store(&map[string]*service{})
	d.sweeping.Go(d.sweep) // ends by Close
	return d
}

// Configure sets which services the configuration lists, and how each is balanced. Their watches start;
// services that it lists no more are on demand from now on.
func (d *Directory) Configure(services map[string]ServiceConfig) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.configured = maps.Clone(services)
	for name := range services {
		if (*d.services.Load())[name] == nil {
			d.start(name)
		}
	}
	for name, s := range *d.services.Load() {
		s.configure(d.configFor(name))
	}
}

func (d *Directory) configFor(name string) (_ ServiceConfig, listed bool) {
	if cfg, ok := d.configured[name]; ok {
		return cfg, true
	}
	return d.cfg.Default, false
}

// enter returns the service for one call, which leaves it when it ends.
func (d *Directory) enter(name string) (*service, *Error) {
	for {
		s := (*d.services.Load())[name]
		if s == nil {
			var err *Error
			if s, err = d.demand(name); err != nil {
				return nil, err
			}
		}
		if s.enter() {
			return s, nil
		}
		// It was released since we looked it up; then it is out of the map as well.
	}
}

// demand starts to watch a service because a call asks for it.
func (d *Directory) demand(name string) (*service, *Error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := (*d.services.Load())[name]; s != nil {
		return s, nil
	}
	if d.closed {
		return nil, ErrDraining()
	}
	if onDemand := len(*d.services.Load()) - len(d.configured); onDemand >= d.cfg.MaxOnDemand {
		return nil, errTooManyServices(name, d.cfg.MaxOnDemand)
	}
	return d.start(name), nil
}

// start makes a service and watches it. The caller holds mu.
func (d *Directory) start(name string) *service {
	cfg, listed := d.configFor(name)
	s := newService(name, cfg, listed, d.closing[name], d)
	services := maps.Clone(*d.services.Load())
	services[name] = s
	d.services.Store(&services)
	go s.watch(d.cfg.Source) // ends when the service is closed, see there
	return s
}

// sweep releases on-demand services that have been idle for IdleRelease.
func (d *Directory) sweep() {
	tick := time.NewTicker(d.cfg.IdleRelease / 10)
	defer tick.Stop()
	for {
		select {
		case <-d.end:
			return
		case <-tick.C:
			d.releaseIdle()
		}
	}
}

func (d *Directory) releaseIdle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, s := range *d.services.Load() {
		if _, listed := d.configured[name]; !listed && s.idleFor() >= d.cfg.IdleRelease && s.retire() {
			d.release(s)
			s.log.Info("service is idle and watched no more")
		}
	}
}

// release takes a service that no call uses out of the directory. The caller holds mu.
func (d *Directory) release(s *service) {
	services := maps.Clone(*d.services.Load())
	delete(services, s.name)
	d.services.Store(&services)
	d.closing[s.name] = s.closed
	d.releasing.Go(func() {
		s.close()
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.closing[s.name] == s.closed {
			delete(d.closing, s.name)
		}
	})
}

// Close ends all watches, and the connections of all endpoints once their last call has ended. It waits.
func (d *Directory) Close() {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return
	}
	d.closed = true
	d.configured = nil
	for _, s := range *d.services.Load() {
		d.release(s)
	}
	d.mu.Unlock()
	close(d.end)
	d.sweeping.Wait()
	d.releasing.Wait()
}

// Unsynced names a listed service of which nothing is known yet, sorted first, and says why, as far as that is known;
// the name is empty if there is none.
func (d *Directory) Unsynced() (string, error) {
	var unsynced []string
	for name, s := range *d.services.Load() {
		if s.listed.Load() && !s.pool.Current().Synced {
			unsynced = append(unsynced, name)
		}
	}
	if len(unsynced) == 0 {
		return "", nil
	}
	name := slices.Min(unsynced)
	return name, d.standing(name).Err
}
