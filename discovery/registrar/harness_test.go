package registrar_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registrar"
	"github.com/lbproxy/lbproxy/discovery/registry"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
	"github.com/lbproxy/lbproxy/metrics"
)

const (
	testKey = "/hello/127.0.0.1:1001"

	// shortTTL is for tests that wait until a lease has run out, and longTTL for those where none may, however busy the
	// machine is.
	shortTTL = 2 * time.Second
	longTTL  = 10 * time.Second
)

var testInstance = discovery.Instance{Addr: "127.0.0.1:1001", Weight: 10}

// A store is an etcd, as a registrar's test sees it.
type store struct {
	*clientv3.Client
	endpoint string
}

func newStore(t *testing.T) store {
	endpoint := etcdtest.Start(t).Endpoint()
	return store{etcdtest.Client(t, endpoint), endpoint}
}

// await waits until the key's state is as ok wants it, and returns that state: nil while there is no key.
func (s store) await(t *testing.T, key string, ok func(*mvccpb.KeyValue) bool) *mvccpb.KeyValue {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got, err := s.Get(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	var kv *mvccpb.KeyValue
	if len(got.Kvs) > 0 {
		kv = got.Kvs[0]
	}
	if ok(kv) {
		return kv
	}
	for seen := range s.Watch(ctx, key, clientv3.WithRev(got.Header.Revision+1)) {
		for _, e := range seen.Events {
			kv = e.Kv
			if e.Type == mvccpb.DELETE {
				kv = nil
			}
			if ok(kv) {
				return kv
			}
		}
	}
	t.Fatalf("%s never got as wanted; last seen: %v", key, kv)
	return nil
}

func exists(kv *mvccpb.KeyValue) bool { return kv != nil }

func absent(kv *mvccpb.KeyValue) bool { return kv == nil }

func etcdClient(t *testing.T, cfg etcd.Config) *etcd.Client {
	t.Helper()
	c, err := etcd.NewClient(cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// startRegistrar starts a registrar, and stops it with the test.
func startRegistrar(t *testing.T, endpoint string, ttl time.Duration) (*registrar.Registrar, *observer.ObservedLogs) {
	t.Helper()
	// The timeout is for Stop where a test has taken etcd away.
	client := etcdClient(t, etcd.Config{Endpoints: []string{endpoint}, DialTimeout: time.Second})
	core, logs := observer.New(zap.InfoLevel)
	r, err := registrar.New(client, "hello", testInstance,
		registrar.Options{TTL: ttl, Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(func() { r.Stop(context.Background()) })
	return r, logs
}

func awaitRegistered(t *testing.T, r *registrar.Registrar) {
	t.Helper()
	select {
	case <-r.Registered():
	case <-time.After(30 * time.Second):
		t.Fatalf("not registered in time: %+v", r.Status())
	}
}

// outlive returns when a lease that was granted now, and lasts longer than the registrar's, has run out because nobody
// kept it alive.
func (s store) outlive(t *testing.T) {
	t.Helper()
	lease, err := s.Grant(t.Context(), int64(longTTL/time.Second)+1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "/probe", "", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	s.await(t, "/probe", absent)
}

// awaitRenewal returns when a lease has been renewed since a moment.
func (s store) awaitRenewal(t *testing.T, lease int64, since time.Time) {
	t.Helper()
	etcdtest.Eventually(t, "the lease is renewed", func() bool {
		l, err := s.TimeToLive(etcdtest.Within(t), clientv3.LeaseID(lease))
		// In whole seconds: it is compared with what would be left, at most, of a lease that was renewed just before.
		return err == nil && time.Duration(l.TTL)*time.Second > time.Duration(l.GrantedTTL)*time.Second-time.Since(since)+time.Second
	})
}

// watchHello watches the service of the tests' instance, until stop. The instance, as last published, may be gone from
// no snapshot.
func (s store) watchHello(t *testing.T) (instance func() discovery.Instance, stop func()) {
	t.Helper()
	client := etcdClient(t, etcd.Config{Endpoints: []string{s.endpoint}})
	source := registry.New(client, metrics.NewDiscovery(prometheus.NewRegistry()), zap.NewNop())
	ctx, cancel := context.WithCancel(context.Background())
	var last atomic.Pointer[discovery.Instance]
	last.Store(&discovery.Instance{})
	var watching sync.WaitGroup
	watching.Go(func() { // ends at stop
		source.Run(ctx, "hello", func(s discovery.Snapshot) {
			if len(s.Instances) != 1 {
				t.Errorf("at revision %d there were %d instances", s.Revision, len(s.Instances))
				return
			}
			last.Store(&s.Instances[0])
		})
	})
	instance = func() discovery.Instance { return *last.Load() }
	return instance, func() {
		cancel()
		watching.Wait()
	}
}

func logged(logs *observer.ObservedLogs, text string) bool { return countLogged(logs, text) > 0 }

func countLogged(logs *observer.ObservedLogs, text string) int {
	return logs.Filter(func(e observer.LoggedEntry) bool { return strings.Contains(e.Message, text) }).Len()
}
