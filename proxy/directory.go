package proxy

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy/transport"
	"github.com/lbproxy/lbproxy/traffic"
)

// DirectoryConfig says how a [Directory] watches services.
type DirectoryConfig struct {
	Source      discovery.Source
	IdleRelease time.Duration // after so long without a call, an on-demand service is watched no more
	MaxOnDemand int           // how many on-demand services may be watched
	Calls       *metrics.Calls
	Endpoints   *metrics.Endpoints
	Log         *zap.Logger
}

// A Directory holds the rules, and the services that are watched: those that the rules list, from the start, and
// others from their first call until they have been idle for long enough.
type Directory struct {
	// Immutable:
	cfg       DirectoryConfig
	connector Connector      // set by Start
	end       chan struct{}  // closed by Close
	sweeping  sync.WaitGroup // the sweeper
	releasing sync.WaitGroup // services that are being closed

	// routing is replaced, never modified: calls read it without a lock.
	routing atomic.Pointer[routingTable]

	mu      sync.Mutex                 // protects, and whoever replaces routing holds it:
	closing map[string]<-chan struct{} // by name, what tells that the service released last has closed
	closed  bool
}

var errReleased = errors.New("the service is watched no more")

// NewDirectory returns a directory that watches nothing before Start. Close ends it.
func NewDirectory(cfg DirectoryConfig) *Directory {
	d := &Directory{cfg: cfg, end: make(chan struct{}), closing: map[string]<-chan struct{}{}}
	d.routing.Store(&routingTable{rules: new(traffic.Rules)})
	d.sweeping.Go(d.sweep) // ends by Close
	return d
}

// Start sets what connects to endpoints, and the first rules. It is called once, before the first call.
func (d *Directory) Start(c Connector, rules *traffic.Rules) {
	d.connector = c
	d.Configure(rules)
}

// Configure replaces the rules. Services that they list are watched from now on; those that they no longer list are on
// demand.
func (d *Directory) Configure(rules *traffic.Rules) {
	// Not under mu: engines lock out calls meanwhile, and a call that asks for another service waits for mu.
	for _, live := range d.replace(rules) {
		d.connector.Reload(live)
	}
}

// replace replaces the rules, and returns the settings of connections that have changed.
func (d *Directory) replace(rules *traffic.Rules) (changed []*transport.Live) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	old := d.routing.Load()
	next := &routingTable{rules, make(map[string]entry, len(old.services))}
	for name, s := range old.services {
		settings, listed := rules.Service(name)
		next.services[name] = s.configure(settings, listed)
		if s.live.Store(upstream(settings)) {
			changed = append(changed, s.live)
		}
	}
	for name := range rules.Services {
		if _, is := next.services[name]; !is {
			next.services[name] = d.watch(name, rules)
		}
	}
	d.routing.Store(next)
	return changed
}

// demand starts watching a service because a call asks for it.
func (d *Directory) demand(name string) *Error {
	d.mu.Lock()
	defer d.mu.Unlock()
	table := d.routing.Load()
	if _, is := table.services[name]; is {
		return nil
	}
	if d.closed {
		return ErrDraining()
	}
	if onDemand := len(table.services) - len(table.rules.Services); onDemand >= d.cfg.MaxOnDemand {
		return errTooManyServices(name, d.cfg.MaxOnDemand)
	}
	d.routing.Store(table.with(d.watch(name, table.rules)))
	return nil
}

// watch makes a service and begins to watch it. The caller holds mu.
func (d *Directory) watch(name string, rules *traffic.Rules) entry {
	settings, listed := rules.Service(name)
	s := newService(name, settings, listed, d.closing[name], d)
	go s.watch(d.cfg.Source) // ends when the service is closed, see there
	return entry{s, &settings}
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
	for name, s := range d.routing.Load().services {
		if !s.listed.Load() && s.idleFor() >= d.cfg.IdleRelease && s.closeIfUnused() {
			d.routing.Store(d.routing.Load().without(name))
			d.release(s.service)
			s.log.Info("service is idle and watched no more")
		}
	}
}

// release ends a service that is out of the table. The caller holds mu.
func (d *Directory) release(s *service) {
	d.closing[s.name] = s.ended
	d.releasing.Go(func() {
		s.close()
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.closing[s.name] == s.ended {
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
	for _, s := range d.routing.Swap(&routingTable{rules: d.routing.Load().rules}).services {
		d.release(s.service)
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
	for name, s := range d.routing.Load().services {
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
