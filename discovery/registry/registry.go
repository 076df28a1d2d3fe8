// Package registry is a [discovery.Source] of the instances that are registered in etcd.
//
// It decides what a service's entries mean together: which of them are its instances, what becomes of one that cannot
// be read, and when a snapshot is published. It leaves to package etcd how the entries are followed, to package dialect
// what they mean, and to package registrar to write them.
package registry

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/dialect"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/metrics"
)

// keepPoisoned is how long the good value of an entry outlives its being poisoned.
const keepPoisoned = time.Minute

// A Source publishes what is registered in etcd. Until etcd answers, the last snapshot of a service stands.
type Source struct {
	// Immutable:
	mux          *etcd.Mux
	dialect      dialect.Dialect
	metrics      *metrics.Discovery
	log          *zap.Logger
	contact      *contact
	keepPoisoned time.Duration

	watches sync.Map // of the services that are watched, by name: *watch
}

// New returns the source of what is registered through client.
func New(client *etcd.Client, m *metrics.Discovery, log *zap.Logger) *Source {
	return &Source{
		mux: etcd.NewMux(client, m, log), dialect: dialect.LBProxy{Root: client.Root()},
		metrics: m, log: log, contact: newContact(log), keepPoisoned: keepPoisoned,
	}
}

// Run implements [discovery.Source]. The only error that retrying cannot cure is a service name that is none.
func (s *Source) Run(ctx context.Context, service string, publish func(discovery.Snapshot)) error {
	if err := discovery.ValidateService(service); err != nil {
		return err
	}
	m := s.metrics.Watch(service)
	defer m.Forget()
	w := &watch{
		table: newTable(service, s.dialect, s.keepPoisoned), contact: s.contact, metrics: m,
		log: s.log.With(zap.String("service", service)), publish: publish,
	}
	s.watches.Store(service, w)
	defer s.watches.CompareAndDelete(service, w)
	defer s.contact.forget(w)
	return s.mux.Follow(ctx, s.dialect.Prefix(service), w)
}

// Standing implements [discovery.Reporter].
func (s *Source) Standing(service string) discovery.Standing {
	w, ok := s.watches.Load(service)
	if !ok {
		return discovery.Standing{}
	}
	standing := w.(*watch).standing()
	standing.Note = s.mux.Note()
	return standing
}

// Probe implements [discovery.Prober].
func (s *Source) Probe(ctx context.Context) error { return s.mux.Probe(ctx) }
