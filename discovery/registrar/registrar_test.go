package registrar_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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

func TestRegistrarInput(t *testing.T) {
	client := etcdClient(t, etcd.Config{Endpoints: []string{"127.0.0.1:1"}})
	for _, test := range []struct {
		name, service string
		in            discovery.Instance
		ttl           time.Duration
		want          string
	}{
		{"no service", "", testInstance, 0, "service name is empty"},
		{"bad service", "a/b", testInstance, 0, `service name "a/b" holds '/'; use letters, digits, '.', '_' and '-'`},
		{"no port", "hello", discovery.Instance{Addr: "10.0.0.7"}, 0, `address "10.0.0.7" is not host:port`},
		{
			"every address", "hello",
			discovery.Instance{Addr: "0.0.0.0:1001"},
			0,
			`address "0.0.0.0:1001": 0.0.0.0 means every address of whichever machine dials it; ` +
				`use an address at which other machines reach this one, such as 10.0.0.7`,
		},
		{
			"bad version", "hello",
			discovery.Instance{Addr: "10.0.0.7:1", Version: "1/0"},
			0,
			`version "1/0" holds '/'; use letters, digits, '.', '_' and '-'`,
		},
		{
			"bad weight", "hello",
			discovery.Instance{Addr: "10.0.0.7:1", Weight: -1},
			0,
			"weight -1 is out of range; use 0 (drained) to 65535",
		},
		{"short ttl", "hello", testInstance, time.Second, "ttl 1s cannot be had; use whole seconds, at least 2s"},
		{"broken ttl", "hello", testInstance, 2500 * time.Millisecond, "ttl 2.5s cannot be had; use whole seconds, at least 2s"},
		{
			"all at once", "",
			discovery.Instance{Addr: "x"},
			-1,
			"service name is empty\naddress \"x\" is not host:port\nttl -1ns cannot be had; use whole seconds, at least 2s",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := registrar.New(client, test.service, test.in, registrar.Options{TTL: test.ttl})
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRegistrarRegistersAndDeregisters(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	client := etcdClient(t, etcd.Config{Endpoints: []string{e.endpoint}, Root: "/fleet"})
	r, err := registrar.New(client, "hello",
		discovery.Instance{Addr: "127.0.0.1:1001", Version: "1.0.0", Weight: 10}, registrar.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Status().Registered {
		t.Error("registered before Start")
	}
	r.Start()
	awaitRegistered(t, r)

	kv := e.await(t, "/fleet/hello/1.0.0/127.0.0.1:1001", exists)
	var got map[string]any
	if err := json.Unmarshal(kv.Value, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"name": "hello", "addr": "127.0.0.1:1001", "version": "1.0.0", "weight": 10.0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("value (-want +got):\n%s", diff)
	}
	lease, err := e.TimeToLive(t.Context(), clientv3.LeaseID(kv.Lease))
	if err != nil {
		t.Fatal(err)
	}
	if lease.GrantedTTL != 10 {
		t.Errorf("the lease lasts %d s, want 10", lease.GrantedTTL)
	}
	status := r.Status()
	if !status.Registered || status.Error != "" || status.CreateRevision != kv.CreateRevision || status.ModRevision != kv.ModRevision {
		t.Errorf("status is %+v, which is not that of %v", status, kv)
	}

	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.await(t, string(kv.Key), absent)
	if lease, err = e.TimeToLive(t.Context(), clientv3.LeaseID(kv.Lease)); err != nil || lease.TTL != -1 {
		t.Errorf("after Stop the lease has %d s left (error %v), want it revoked", lease.TTL, err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
	r.Start()
	if err := r.SetWeight(t.Context(), 5); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("SetWeight after Stop: got %v, want an error that says stopped", err)
	}
	if status := r.Status(); status.Registered {
		t.Errorf("after Stop the status is %+v", status)
	}
}

func TestRegistrarNeverStarted(t *testing.T) {
	client := etcdClient(t, etcd.Config{Endpoints: []string{"127.0.0.1:1"}})
	r, err := registrar.New(client, "hello", testInstance, registrar.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

func TestRegistrationEndsWithItsProcess(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	client := etcdClient(t, etcd.Config{Endpoints: []string{e.endpoint}, DialTimeout: time.Second})
	r, err := registrar.New(client, "hello", testInstance, registrar.Options{TTL: shortTTL})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	awaitRegistered(t, r)
	client.Close() // a process that dies says nothing to etcd

	e.await(t, testKey, absent)
	err = r.Stop(t.Context())
	if err == nil || !strings.Contains(err.Error(), testKey) || !strings.Contains(err.Error(), "within 2s") {
		t.Errorf("Stop without etcd: got %v, want an error with the key and what becomes of it", err)
	}
}

func TestRegistrationOutlivesItsTTL(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	r, logs := startRegistrar(t, e.endpoint, longTTL)
	awaitRegistered(t, r)
	before := e.await(t, testKey, exists)
	e.outlive(t)
	after := e.await(t, testKey, exists)
	if before.ModRevision != after.ModRevision {
		t.Errorf("the key was written again: before %v, after %v", before, after)
	}
	if got := logs.Len(); got != 1 {
		t.Errorf("%d lines logged, want 1: %v", got, logs.All())
	}
}

// A process that finds the key of an earlier one takes it over: whoever watches sees no moment without the instance,
// and that it is another registration. The earlier one's lease then runs out without harm.
func TestRegistrarReplacesAnEarlierProcess(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		leased bool // the earlier one
	}{{"under a lease", true}, {"without one", false}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e := newStore(t)
			var earlier clientv3.LeaseID
			var opts []clientv3.OpOption
			if test.leased {
				lease, err := e.Grant(t.Context(), 60)
				if err != nil {
					t.Fatal(err)
				}
				earlier = lease.ID
				opts = append(opts, clientv3.WithLease(earlier))
			}
			old, err := e.Put(t.Context(), testKey, `{"name":"hello","addr":"127.0.0.1:1001","version":"","weight":10}`, opts...)
			if err != nil {
				t.Fatal(err)
			}
			watched, stop := e.watchHello(t)
			defer stop()
			etcdtest.Eventually(t, "the earlier one is seen", func() bool { return watched().Registered == old.Header.Revision })

			r, _ := startRegistrar(t, e.endpoint, longTTL)
			awaitRegistered(t, r)
			if test.leased { // it ends as leases do that run out
				if _, err := e.Revoke(t.Context(), earlier); err != nil {
					t.Fatal(err)
				}
			}
			kv := e.await(t, testKey, exists)
			if kv.ModRevision != r.Status().ModRevision || kv.CreateRevision != old.Header.Revision {
				t.Errorf("the key is %v, want it taken over, and held by %+v", kv, r.Status())
			}
			e.awaitRenewal(t, kv.Lease, time.Now())
			etcdtest.Eventually(t, "it is known for another registration", func() bool { return watched().Registered == kv.ModRevision })
		})
	}
}

// watchHello watches the service of the tests' instance, until stop. The instance, as last published, may be gone from no
// snapshot.
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

func TestRegistrarRestores(t *testing.T) {
	for _, test := range []struct {
		name string
		harm func(t *testing.T, e store, kv *mvccpb.KeyValue)
		log  string
		// whether what is restored is a new registration, under a new lease
		newRegistration, newLease bool
	}{
		{
			"lease revoked", func(t *testing.T, e store, kv *mvccpb.KeyValue) {
				if _, err := e.Revoke(t.Context(), clientv3.LeaseID(kv.Lease)); err != nil {
					t.Fatal(err)
				}
			}, "not registered", true, true,
		},
		{
			"key deleted", func(t *testing.T, e store, _ *mvccpb.KeyValue) {
				if _, err := e.Delete(t.Context(), testKey); err != nil {
					t.Fatal(err)
				}
			}, "gone from etcd", true, false,
		},
		{
			"key overwritten", func(t *testing.T, e store, _ *mvccpb.KeyValue) {
				if _, err := e.Put(t.Context(), testKey, "mine"); err != nil {
					t.Fatal(err)
				}
			}, "someone else wrote", false, false,
		},
		{
			"value edited", func(t *testing.T, e store, _ *mvccpb.KeyValue) {
				if _, err := e.Put(t.Context(), testKey, "{}", clientv3.WithIgnoreLease()); err != nil {
					t.Fatal(err)
				}
			}, "someone else wrote", false, false,
		},
		{
			"weight set by hand", func(t *testing.T, e store, kv *mvccpb.KeyValue) {
				drained := strings.Replace(string(kv.Value), `"weight":10`, `"weight":0`, 1)
				if _, err := e.Put(t.Context(), testKey, drained, clientv3.WithIgnoreLease()); err != nil {
					t.Fatal(err)
				}
			}, "someone else wrote", false, false,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e := newStore(t)
			r, logs := startRegistrar(t, e.endpoint, longTTL)
			awaitRegistered(t, r)
			before := e.await(t, testKey, exists)
			test.harm(t, e, before)
			after := e.await(t, testKey, func(kv *mvccpb.KeyValue) bool {
				return kv != nil && kv.ModRevision > before.ModRevision && string(kv.Value) == string(before.Value)
			})
			if got := after.CreateRevision != before.CreateRevision; got != test.newRegistration {
				t.Errorf("new create revision: %v, want %v", got, test.newRegistration)
			}
			if got := after.Lease != before.Lease; got != test.newLease {
				t.Errorf("new lease: %v, want %v", got, test.newLease)
			}
			etcdtest.Eventually(t, "the status shows what was restored", func() bool {
				s := r.Status()
				return s.Registered && s.ModRevision == after.ModRevision
			})
			if !logged(logs, test.log) {
				t.Errorf("no line says %q: %v", test.log, logs.All())
			}
		})
	}
}

func logged(logs *observer.ObservedLogs, text string) bool { return countLogged(logs, text) > 0 }

func countLogged(logs *observer.ObservedLogs, text string) int {
	return logs.Filter(func(e observer.LoggedEntry) bool { return strings.Contains(e.Message, text) }).Len()
}

func TestTwoRegistrarsOfOneAddress(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	first, firstLog := startRegistrar(t, e.endpoint, longTTL)
	awaitRegistered(t, first)
	second, secondLog := startRegistrar(t, e.endpoint, longTTL)
	awaitRegistered(t, second)
	const conflict = "someone else wrote"
	etcdtest.Eventually(t, "both find out", func() bool { return logged(firstLog, conflict) && logged(secondLog, conflict) })
	etcdtest.Eventually(t, "they take longer each time", func() bool {
		lines := firstLog.FilterMessageSnippet(conflict).All()
		last := lines[len(lines)-1].ContextMap()["in"].(time.Duration)
		return last > time.Second
	})
	// Three doublings at most were needed for that.
	if got := countLogged(firstLog, conflict); got > 3 {
		t.Errorf("%d lines about the conflict, want at most 3", got)
	}

	if err := second.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	etcdtest.Eventually(t, "the one that is left has the key", func() bool { return first.Status().Registered })
	kv := e.await(t, testKey, exists)
	if got, want := kv.ModRevision, first.Status().ModRevision; got != want {
		t.Errorf("the key is of revision %d, the registrar's of %d", got, want)
	}
}

func TestStopLeavesTheKeyToWhoTookIt(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	r, logs := startRegistrar(t, e.endpoint, longTTL)
	awaitRegistered(t, r)
	if _, err := e.Put(t.Context(), testKey, "mine"); err != nil {
		t.Fatal(err)
	}
	etcdtest.Eventually(t, "the registrar finds out", func() bool { return logged(logs, "someone else wrote") })
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kv := e.await(t, testKey, exists); string(kv.Value) != "mine" {
		t.Errorf("after Stop the key holds %s", kv.Value)
	}
}

func TestRegistrarWaitsForEtcd(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	server.Stop()
	r, logs := startRegistrar(t, server.Endpoint(), longTTL)
	etcdtest.Eventually(t, "the registrar says that it cannot register", func() bool { return logged(logs, "not registered") })
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	awaitRegistered(t, r)
	if got := countLogged(logs, "not registered"); got > 2 {
		t.Errorf("%d lines about one outage: %v", got, logs.All())
	}
}

func TestRegistrarOutlastsEtcd(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	e := store{etcdtest.Client(t, server.Endpoint()), server.Endpoint()}
	r, _ := startRegistrar(t, e.endpoint, shortTTL)
	awaitRegistered(t, r)
	stopped := time.Now()
	server.Stop()
	etcdtest.Eventually(t, "the lease should have run out", func() bool {
		return !r.Status().Registered && time.Since(stopped) > shortTTL
	})
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	etcdtest.Eventually(t, "it is registered again, as the registrar knows", func() bool {
		status := r.Status()
		kv := e.await(t, testKey, exists)
		return status.Registered && status.ModRevision == kv.ModRevision
	})
	e.awaitRenewal(t, e.await(t, testKey, exists).Lease, time.Now())
}

func TestRegistrarLosesItsLeaseWhileCutOff(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	for _, test := range []struct {
		name string
		harm func(*etcdtest.Forwarder)
	}{
		{"cut", (*etcdtest.Forwarder).Cut},
		{"stalled", (*etcdtest.Forwarder).Stall},
	} {
		t.Run(test.name, func(t *testing.T) {
			network := etcdtest.Forward(t, e.endpoint)
			r, _ := startRegistrar(t, network.Endpoint(), shortTTL)
			awaitRegistered(t, r)
			before := e.await(t, testKey, exists)
			test.harm(network)
			e.await(t, testKey, absent)
			etcdtest.Eventually(t, "the registrar finds out", func() bool { return !r.Status().Registered })
			network.Resume()
			after := e.await(t, testKey, exists)
			if after.CreateRevision == before.CreateRevision || after.Lease == before.Lease {
				t.Errorf("registered again as %v, want a registration apart from %v", after, before)
			}
			etcdtest.Eventually(t, "the registrar knows", func() bool { return r.Status().Registered })
			if err := r.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestStopWithoutEtcdIsBounded(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	for _, test := range []struct {
		name string
		harm func(*etcdtest.Forwarder)
	}{
		{"cut", (*etcdtest.Forwarder).Cut},
		{"stalled", (*etcdtest.Forwarder).Stall},
	} {
		t.Run(test.name, func(t *testing.T) {
			network := etcdtest.Forward(t, e.endpoint)
			r, _ := startRegistrar(t, network.Endpoint(), shortTTL)
			awaitRegistered(t, r)
			test.harm(network)
			began := time.Now()
			err := r.Stop(context.Background())
			if took := time.Since(began); took > 10*time.Second { // on a busy machine
				t.Errorf("Stop took %v, want about the request timeout of 1s", took)
			}
			if err == nil || !strings.Contains(err.Error(), "the registration ends by itself within 2s") {
				t.Errorf("Stop: got %v, want an error that says what becomes of the registration", err)
			}

			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := r.Stop(ctx); err == nil {
				t.Error("Stop with a context that has ended: no error")
			}
			network.Resume()
			etcdtest.Eventually(t, "Stop succeeds when called again", func() bool { return r.Stop(t.Context()) == nil })
			e.await(t, testKey, absent)
		})
	}
}

func TestSetWeight(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	network := etcdtest.Forward(t, e.endpoint)
	r, logs := startRegistrar(t, network.Endpoint(), longTTL)
	awaitRegistered(t, r)
	before := e.await(t, testKey, exists)

	if err := r.SetWeight(t.Context(), 20); err != nil {
		t.Fatal(err)
	}
	after := e.await(t, testKey, exists)
	if want := strings.Replace(string(before.Value), "10}", "20}", 1); string(after.Value) != want {
		t.Errorf("the value is %s, want %s", after.Value, want)
	}
	if after.CreateRevision != before.CreateRevision || after.Lease != before.Lease {
		t.Errorf("a new weight made a new registration: %v, before %v", after, before)
	}
	if got := r.Status(); !got.Registered || got.Weight != 20 || got.ModRevision != after.ModRevision {
		t.Errorf("status is %+v, which is not that of %v", got, after)
	}
	if err := r.SetWeight(t.Context(), 20); err != nil {
		t.Errorf("the same weight again: %v", err)
	}
	if err := r.SetWeight(t.Context(), discovery.MaxWeight+1); err == nil {
		t.Error("a weight out of range: no error")
	}

	network.Cut()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := r.SetWeight(ctx, 0)
	if err == nil || !strings.Contains(err.Error(), "not confirmed by etcd yet") {
		t.Errorf("without etcd: got %v, want an error that says that the weight is not confirmed", err)
	}
	network.Resume()
	e.await(t, testKey, func(kv *mvccpb.KeyValue) bool {
		return kv != nil && strings.Contains(string(kv.Value), `"weight":0}`)
	})
	etcdtest.Eventually(t, "it is registered with the weight", func() bool { return r.SetWeight(t.Context(), 0) == nil })
	if logged(logs, "someone else wrote") {
		t.Errorf("a weight of its own is taken for someone else's: %v", logs.All())
	}
}

func TestWeightHandler(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	r, _ := startRegistrar(t, e.endpoint, longTTL)
	awaitRegistered(t, r)
	handler := r.WeightHandler()
	for _, test := range []struct {
		method, target string
		code           int
		want           string // in the answer
	}{
		{"GET", "/weight", 200, `"weight":10,"registered":true`},
		{"PUT", "/weight?weight=20", 200, `"weight":20,"registered":true`},
		{"PUT", "/?weight=0", 200, `"weight":0,"registered":true`},
		{"GET", "/", 200, `"key":"/hello/127.0.0.1:1001"`},
		{"PUT", "/", 400, "no weight is given; use ?weight=N with N from 0 (drained) to 65535"},
		{"PUT", "/?weight=", 400, `weight: want a whole number, such as 10, got ""`},
		{"PUT", "/?weight=ten", 400, `weight: want a whole number, such as 10, got "ten"`},
		{"PUT", "/?weight=10.0", 200, `"weight":10,"registered":true`},
		{"PUT", "/?weight=-1", 400, "weight -1 is out of range; use 0 (drained) to 65535"},
		{"PUT", "/?weight=65536", 400, "weight 65536 is out of range"},
		{"POST", "/?weight=1", 405, ""},
		{"DELETE", "/", 405, ""},
	} {
		t.Run(test.method+" "+test.target, func(t *testing.T) {
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, httptest.NewRequest(test.method, test.target, http.NoBody))
			if answer.Code != test.code || !strings.Contains(answer.Body.String(), test.want) {
				t.Errorf("got %d %s, want %d with %q", answer.Code, answer.Body, test.code, test.want)
			}
		})
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest("PUT", "/?weight=1", http.NoBody))
	if answer.Code != http.StatusServiceUnavailable {
		t.Errorf("after Stop: got %d %s, want 503", answer.Code, answer.Body)
	}
}
