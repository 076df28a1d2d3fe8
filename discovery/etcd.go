package discovery

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/metrics"
)

// Etcd is the [Source] of services whose instances are registered in etcd.
//
// Each Run lists its service's entries at one revision and watches them from there. When the watch is lost,
// it lists again and goes on with what differs; until etcd answers, the last snapshot stands.
type Etcd struct {
	// Immutable:
	client  *EtcdClient
	metrics *metrics.Metrics
	log     *zap.Logger
	limits  etcdLimits

	mu     sync.Mutex   // protects:
	stream *watchStream // which watches that start now ride on; nil while there is none
	// and every stream's riders

	following sync.Map // of the services that are followed, by name, to *follower
}

// etcdLimits are variable for tests.
type etcdLimits struct {
	progress     time.Duration // how long a stream may be quiet before etcd is asked for its progress
	answer       time.Duration // how long etcd may take to answer
	audit        time.Duration // how often the watched state is compared with the registry
	keepPoisoned time.Duration // how long the good value of an entry outlives its being poisoned
	page         int64         // entries in one response to a list
}

// NewEtcd returns the source of what is registered through client.
func NewEtcd(client *EtcdClient, m *metrics.Metrics, log *zap.Logger) *Etcd {
	return &Etcd{client: client, metrics: m, log: log, limits: etcdLimits{
		progress:     10 * time.Second,
		answer:       5 * time.Second,
		audit:        5 * time.Minute,
		keepPoisoned: time.Minute,
		page:         1000,
	}}
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
	client, err := e.client.get(ctx)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, e.client.requestTimeout())
		defer cancel()
		_, err = client.Get(ctx, e.client.root+"/")
	}
	if err != nil {
		return fmt.Errorf("etcd at %s does not answer; check the endpoints, TLS and user, and that most members run: %w",
			e.client.Endpoints(), err)
	}
	return nil
}
