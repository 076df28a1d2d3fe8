package discovery

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/lbproxy/lbproxy/metrics"
)

// Etcd is the [Source] of services whose instances are registered in etcd.
//
// Each Run lists its service's entries at one revision and watches them from there. When the watch is lost, another
// goes on where it was; the entries are listed again where that cannot be. Until etcd answers, the last snapshot stands.
type Etcd struct {
	// Immutable:
	client  *EtcdClient
	metrics *metrics.Discovery
	log     *zap.Logger
	limits  etcdLimits
	contact *contact
	slots   chan struct{} // one for each read that may be under way; see withSlot

	following sync.Map // the services that are followed, by name: *follower
	glances   singleflight.Group
	glanced   atomic.Pointer[glance]
	slow      atomic.Int32 // glances in a row that took too long

	mu        sync.Mutex   // protects:
	stream    *watchStream // which watches that start now ride on; nil while there is none
	abandoned int          // streams in a row, for not telling what happened
	// and every stream's riders
}

// etcdLimits are variable for tests.
type etcdLimits struct {
	progress     time.Duration // how long a stream may be quiet before etcd is asked for its progress
	answer       time.Duration // how long etcd may take to answer
	muteAsk      time.Duration // how often etcd is asked for its progress that never tells it
	audit        time.Duration // how often the watched state is compared with the registry
	resumedAudit time.Duration // within which time that is done after a lost watch
	spread       time.Duration // within which time processes list again that have the same reason to
	keepPoisoned time.Duration // how long the good value of an entry outlives its being poisoned
	page         int64         // entries in one response to a list
	reads        int           // at a time
}

// silence is how long nothing may come of a watch before etcd is asked by other means.
func (l *etcdLimits) silence() time.Duration { return l.progress + l.answer }

// NewEtcd returns the source of what is registered through client.
func NewEtcd(client *EtcdClient, m *metrics.Discovery, log *zap.Logger) *Etcd {
	return newEtcd(client, m, log, etcdLimits{
		progress:     10 * time.Second,
		answer:       5 * time.Second,
		muteAsk:      time.Minute,
		audit:        5 * time.Minute,
		resumedAudit: time.Minute,
		spread:       3 * time.Second,
		keepPoisoned: time.Minute,
		page:         1000,
		reads:        8,
	})
}

func newEtcd(client *EtcdClient, m *metrics.Discovery, log *zap.Logger, limits etcdLimits) *Etcd {
	return &Etcd{
		client: client, metrics: m, log: log, limits: limits,
		contact: newContact(log), slots: make(chan struct{}, limits.reads),
	}
}

// Run implements [Source]. The only error that retrying cannot cure is a service name that is none.
func (e *Etcd) Run(ctx context.Context, service string, publish func(Snapshot)) error {
	if err := ValidateService(service); err != nil {
		return err
	}
	m := e.metrics.Watch(service)
	defer m.Forget()
	f := newFollower(e, service, m, publish)
	e.following.Store(service, f)
	defer e.following.CompareAndDelete(service, f)
	defer e.contact.forget(f)
	return f.run(ctx)
}

// Standing implements [Reporter].
func (e *Etcd) Standing(service string) Standing {
	f, ok := e.following.Load(service)
	if !ok {
		return Standing{}
	}
	return f.(*follower).standing()
}

// Probe reports why etcd does not answer, with a read below the root that a majority of its members confirms,
// and that its user must be allowed.
func (e *Etcd) Probe(ctx context.Context) error {
	_, err := e.request(ctx, e.client.requestTimeout(), e.client.root+"/", clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("etcd at %s does not answer; check the endpoints, TLS and user, and that most members run: %w",
			e.client.Endpoints(), err)
	}
	return nil
}
