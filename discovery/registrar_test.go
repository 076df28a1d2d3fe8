package discovery_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

const (
	testKey = "/hello/127.0.0.1:1001"
	testTTL = 2 * time.Second
)

var testInstance = discovery.Instance{Addr: "127.0.0.1:1001", Weight: 10}

// registry is an etcd, as a registrar's test sees it.
type registry struct {
	*clientv3.Client
	endpoint string
}

func newRegistry(t *testing.T) registry {
	endpoint := etcdtest.Start(t).Endpoint()
	return registry{etcdtest.Client(t, endpoint), endpoint}
}

// await waits until the key's state is as ok wants it, and returns that state: nil while there is no key.
func (r registry) await(t *testing.T, key string, ok func(*mvccpb.KeyValue) bool) *mvccpb.KeyValue {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got, err := r.Get(ctx, key)
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
	for seen := range r.Watch(ctx, key, clientv3.WithRev(got.Header.Revision+1)) {
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

func etcdClient(t *testing.T, cfg discovery.EtcdConfig) *discovery.EtcdClient {
	t.Helper()
	c, err := discovery.NewEtcdClient(cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// startRegistrar starts a registrar whose TTL is short, and stops it with the test.
func startRegistrar(t *testing.T, endpoint string) (*discovery.Registrar, *observer.ObservedLogs) {
	t.Helper()
	// The timeout is for Stop where a test has taken etcd away.
	client := etcdClient(t, discovery.EtcdConfig{Endpoints: []string{endpoint}, DialTimeout: time.Second})
	core, logs := observer.New(zap.InfoLevel)
	r, err := discovery.NewRegistrar(client, "hello", testInstance,
		discovery.RegistrarOptions{TTL: testTTL, Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(func() { r.Stop(context.Background()) })
	return r, logs
}

func awaitRegistered(t *testing.T, r *discovery.Registrar) {
	t.Helper()
	select {
	case <-r.Registered():
	case <-time.After(30 * time.Second):
		t.Fatalf("not registered in time: %+v", r.Status())
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(30 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// outlive returns when a lease that was granted after the registrar's last, and lasts longer, has run out
// because nobody kept it alive.
func (r registry) outlive(t *testing.T) {
	t.Helper()
	lease, err := r.Grant(t.Context(), int64(testTTL/time.Second)+1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Put(t.Context(), "/probe", "", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	r.await(t, "/probe", absent)
}

func TestRegistrarInput(t *testing.T) {
	client := etcdClient(t, discovery.EtcdConfig{Endpoints: []string{"127.0.0.1:1"}})
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
			_, err := discovery.NewRegistrar(client, test.service, test.in, discovery.RegistrarOptions{TTL: test.ttl})
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
	etcd := newRegistry(t)
	client := etcdClient(t, discovery.EtcdConfig{Endpoints: []string{etcd.endpoint}, Root: "/fleet"})
	r, err := discovery.NewRegistrar(client, "hello",
		discovery.Instance{Addr: "127.0.0.1:1001", Version: "1.0.0", Weight: 10}, discovery.RegistrarOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Status().Registered {
		t.Error("registered before Start")
	}
	r.Start()
	awaitRegistered(t, r)

	kv := etcd.await(t, "/fleet/hello/1.0.0/127.0.0.1:1001", exists)
	var got map[string]any
	if err := json.Unmarshal(kv.Value, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"name": "hello", "addr": "127.0.0.1:1001", "version": "1.0.0", "weight": 10.0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("value (-want +got):\n%s", diff)
	}
	lease, err := etcd.TimeToLive(t.Context(), clientv3.LeaseID(kv.Lease))
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
	etcd.await(t, string(kv.Key), absent)
	if lease, err = etcd.TimeToLive(t.Context(), clientv3.LeaseID(kv.Lease)); err != nil || lease.TTL != -1 {
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
	client := etcdClient(t, discovery.EtcdConfig{Endpoints: []string{"127.0.0.1:1"}})
	r, err := discovery.NewRegistrar(client, "hello", testInstance, discovery.RegistrarOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

func TestRegistrationEndsWithItsProcess(t *testing.T) {
	t.Parallel()
	etcd := newRegistry(t)
	client := etcdClient(t, discovery.EtcdConfig{Endpoints: []string{etcd.endpoint}, DialTimeout: time.Second})
	r, err := discovery.NewRegistrar(client, "hello", testInstance, discovery.RegistrarOptions{TTL: testTTL})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	awaitRegistered(t, r)
	client.Close() // a process that dies says nothing to etcd

	etcd.await(t, testKey, absent)
	err = r.Stop(t.Context())
	if err == nil || !strings.Contains(err.Error(), testKey) || !strings.Contains(err.Error(), "within 2s") {
		t.Errorf("Stop without etcd: got %v, want an error with the key and what becomes of it", err)
	}
}

func TestRegistrationOutlivesItsTTL(t *testing.T) {
	t.Parallel()
	etcd := newRegistry(t)
	r, logs := startRegistrar(t, etcd.endpoint)
	awaitRegistered(t, r)
	before := etcd.await(t, testKey, exists)
	etcd.outlive(t)
	after := etcd.await(t, testKey, exists)
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
		name string
		ttl  int64 // of the earlier lease; 0 for none
	}{{"under a lease", 1}, {"without one", 0}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			etcd := newRegistry(t)
			var opts []clientv3.OpOption
			if test.ttl > 0 {
				earlier, err := etcd.Grant(t.Context(), test.ttl)
				if err != nil {
					t.Fatal(err)
				}
				opts = append(opts, clientv3.WithLease(earlier.ID))
			}
			old, err := etcd.Put(t.Context(), testKey, `{"name":"hello","addr":"127.0.0.1:1001","version":"","weight":10}`, opts...)
			if err != nil {
				t.Fatal(err)
			}
			source := newSource(t, discovery.EtcdConfig{Endpoints: []string{etcd.endpoint}}, discovery.EtcdLimits{})
			f := source.follow(t, "hello")
			f.await("127.0.0.1:1001=10")

			r, _ := startRegistrar(t, etcd.endpoint)
			awaitRegistered(t, r)
			etcd.outlive(t)
			if kv := etcd.await(t, testKey, exists); kv.ModRevision != r.Status().ModRevision || kv.CreateRevision != old.Header.Revision {
				t.Errorf("the key is %v, want it taken over, and held by %+v", kv, r.Status())
			}
			all, _ := f.all()
			for _, s := range all {
				if len(s.Instances) != 1 {
					t.Errorf("at revision %d there were %d instances", s.Revision, len(s.Instances))
				}
			}
			if in := all[len(all)-1].Instances[0]; in.Registered != r.Status().ModRevision {
				t.Errorf("%+v is not known for the registration %+v", in, r.Status())
			}
		})
	}
}

func TestRegistrarRestores(t *testing.T) {
	for _, test := range []struct {
		name string
		harm func(t *testing.T, etcd registry, kv *mvccpb.KeyValue)
		log  string
		// whether what is restored is a new registration, under a new lease
		newRegistration, newLease bool
	}{
		{
			"lease revoked", func(t *testing.T, etcd registry, kv *mvccpb.KeyValue) {
				if _, err := etcd.Revoke(t.Context(), clientv3.LeaseID(kv.Lease)); err != nil {
					t.Fatal(err)
				}
			}, "not registered", true, true,
		},
		{
			"key deleted", func(t *testing.T, etcd registry, _ *mvccpb.KeyValue) {
				if _, err := etcd.Delete(t.Context(), testKey); err != nil {
					t.Fatal(err)
				}
			}, "gone from etcd", true, false,
		},
		{
			"key overwritten", func(t *testing.T, etcd registry, _ *mvccpb.KeyValue) {
				if _, err := etcd.Put(t.Context(), testKey, "mine"); err != nil {
					t.Fatal(err)
				}
			}, "someone else wrote", false, false,
		},
		{
			"value edited", func(t *testing.T, etcd registry, _ *mvccpb.KeyValue) {
				if _, err := etcd.Put(t.Context(), testKey, "{}", clientv3.WithIgnoreLease()); err != nil {
					t.Fatal(err)
				}
			}, "someone else wrote", false, false,
		},
		{
			"weight set by hand", func(t *testing.T, etcd registry, kv *mvccpb.KeyValue) {
				drained := strings.Replace(string(kv.Value), `"weight":10`, `"weight":0`, 1)
				if _, err := etcd.Put(t.Context(), testKey, drained, clientv3.WithIgnoreLease()); err != nil {
					t.Fatal(err)
				}
			}, "someone else wrote", false, false,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			etcd := newRegistry(t)
			r, logs := startRegistrar(t, etcd.endpoint)
			awaitRegistered(t, r)
			before := etcd.await(t, testKey, exists)
			test.harm(t, etcd, before)
			after := etcd.await(t, testKey, func(kv *mvccpb.KeyValue) bool {
				return kv != nil && kv.ModRevision > before.ModRevision && string(kv.Value) == string(before.Value)
			})
			if got := after.CreateRevision != before.CreateRevision; got != test.newRegistration {
				t.Errorf("new create revision: %v, want %v", got, test.newRegistration)
			}
			if got := after.Lease != before.Lease; got != test.newLease {
				t.Errorf("new lease: %v, want %v", got, test.newLease)
			}
			eventually(t, "the status shows what was restored", func() bool {
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
	etcd := newRegistry(t)
	first, firstLog := startRegistrar(t, etcd.endpoint)
	awaitRegistered(t, first)
	second, secondLog := startRegistrar(t, etcd.endpoint)
	awaitRegistered(t, second)
	const conflict = "someone else wrote"
	eventually(t, "both find out", func() bool { return logged(firstLog, conflict) && logged(secondLog, conflict) })
	eventually(t, "they take longer each time", func() bool {
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
	eventually(t, "the one that is left has the key", func() bool { return first.Status().Registered })
	kv := etcd.await(t, testKey, exists)
	if got, want := kv.ModRevision, first.Status().ModRevision; got != want {
		t.Errorf("the key is of revision %d, the registrar's of %d", got, want)
	}
}

func TestStopLeavesTheKeyToWhoTookIt(t *testing.T) {
	t.Parallel()
	etcd := newRegistry(t)
	r, logs := startRegistrar(t, etcd.endpoint)
	awaitRegistered(t, r)
	if _, err := etcd.Put(t.Context(), testKey, "mine"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the registrar finds out", func() bool { return logged(logs, "someone else wrote") })
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kv := etcd.await(t, testKey, exists); string(kv.Value) != "mine" {
		t.Errorf("after Stop the key holds %s", kv.Value)
	}
}

func TestRegistrarWaitsForEtcd(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	server.Stop()
	r, logs := startRegistrar(t, server.Endpoint())
	eventually(t, "the registrar says that it cannot register", func() bool { return logged(logs, "not registered") })
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
	etcd := registry{etcdtest.Client(t, server.Endpoint()), server.Endpoint()}
	r, _ := startRegistrar(t, etcd.endpoint)
	awaitRegistered(t, r)
	stopped := time.Now()
	server.Stop()
	eventually(t, "the lease should have run out", func() bool {
		return !r.Status().Registered && time.Since(stopped) > testTTL
	})
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is registered again", func() bool { return r.Status().Registered })
	etcd.outlive(t)
	kv := etcd.await(t, testKey, exists)
	if got, want := kv.ModRevision, r.Status().ModRevision; got != want {
		t.Errorf("the key is of revision %d, the registrar's of %d", got, want)
	}
}

func TestRegistrarLosesItsLeaseWhileCutOff(t *testing.T) {
	t.Parallel()
	etcd := newRegistry(t)
	for _, test := range []struct {
		name string
		harm func(*etcdtest.Forwarder)
	}{
		{"cut", (*etcdtest.Forwarder).Cut},
		{"stalled", (*etcdtest.Forwarder).Stall},
	} {
		t.Run(test.name, func(t *testing.T) {
			network := etcdtest.Forward(t, etcd.endpoint)
			r, _ := startRegistrar(t, network.Endpoint())
			awaitRegistered(t, r)
			before := etcd.await(t, testKey, exists)
			test.harm(network)
			etcd.await(t, testKey, absent)
			eventually(t, "the registrar finds out", func() bool { return !r.Status().Registered })
			network.Resume()
			after := etcd.await(t, testKey, exists)
			if after.CreateRevision == before.CreateRevision || after.Lease == before.Lease {
				t.Errorf("registered again as %v, want a registration apart from %v", after, before)
			}
			eventually(t, "the registrar knows", func() bool { return r.Status().Registered })
			if err := r.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestStopWithoutEtcdIsBounded(t *testing.T) {
	t.Parallel()
	etcd := newRegistry(t)
	for _, test := range []struct {
		name string
		harm func(*etcdtest.Forwarder)
	}{
		{"cut", (*etcdtest.Forwarder).Cut},
		{"stalled", (*etcdtest.Forwarder).Stall},
	} {
		t.Run(test.name, func(t *testing.T) {
			network := etcdtest.Forward(t, etcd.endpoint)
			r, _ := startRegistrar(t, network.Endpoint())
			awaitRegistered(t, r)
			test.harm(network)
			began := time.Now()
			err := r.Stop(context.Background())
			if took := time.Since(began); took > 3*time.Second {
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
			eventually(t, "Stop succeeds when called again", func() bool { return r.Stop(t.Context()) == nil })
			etcd.await(t, testKey, absent)
		})
	}
}

func TestSetWeight(t *testing.T) {
	t.Parallel()
	etcd := newRegistry(t)
	network := etcdtest.Forward(t, etcd.endpoint)
	r, logs := startRegistrar(t, network.Endpoint())
	awaitRegistered(t, r)
	before := etcd.await(t, testKey, exists)

	if err := r.SetWeight(t.Context(), 20); err != nil {
		t.Fatal(err)
	}
	after := etcd.await(t, testKey, exists)
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
	etcd.await(t, testKey, func(kv *mvccpb.KeyValue) bool {
		return kv != nil && strings.Contains(string(kv.Value), `"weight":0}`)
	})
	eventually(t, "it is registered with the weight", func() bool { return r.SetWeight(t.Context(), 0) == nil })
	if logged(logs, "someone else wrote") {
		t.Errorf("a weight of its own is taken for someone else's: %v", logs.All())
	}
}

func TestWeightHandler(t *testing.T) {
	t.Parallel()
	etcd := newRegistry(t)
	r, _ := startRegistrar(t, etcd.endpoint)
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
