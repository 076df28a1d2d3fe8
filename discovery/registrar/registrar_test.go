package registrar_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registrar"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

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
