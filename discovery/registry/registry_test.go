package registry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registry"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

func TestEtcdFollowsTheRegistry(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	lease, err := e.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	e.put("/user-admin/10.0.0.9:1001", `{}`)
	e.put("/use/10.0.0.9:1001", `{}`)
	f := newSource(t, e.config(), registry.Limits{}).follow(t, "user")
	f.await("")
	for _, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"a key of three segments", func() {
			e.put("/user/1.0.0/10.0.0.7:1001", `{"name":"user","addr":"10.0.0.7:1001","version":"1.0.0","weight":10}`)
		}, "10.0.0.7:1001@1.0.0=10"},
		{"a key of two segments, under a lease", func() {
			e.put("/user/10.0.0.8:1001", `{"name":"user","addr":"10.0.0.8:1001"}`, clientv3.WithLease(lease.ID))
		}, "10.0.0.7:1001@1.0.0=10 10.0.0.8:1001=1"},
		{"nothing but the weight changes", func() {
			e.put("/user/1.0.0/10.0.0.7:1001", `{"name":"user","addr":"10.0.0.7:1001","version":"1.0.0","weight":0}`)
		}, "10.0.0.7:1001@1.0.0=0 10.0.0.8:1001=1"},
		{"another service with the same beginning, then one of ours", func() {
			e.put("/user-admin/10.0.0.6:1001", `{}`)
			e.put("/user/[2001:db8::1]:1001", `{"weight":3}`)
		}, "10.0.0.7:1001@1.0.0=0 10.0.0.8:1001=1 [2001:db8::1]:1001=3"},
		{
			"a key is deleted", func() { e.delete("/user/1.0.0/10.0.0.7:1001") },
			"10.0.0.8:1001=1 [2001:db8::1]:1001=3",
		},
		{"a lease is revoked", func() {
			if _, err := e.Revoke(t.Context(), lease.ID); err != nil {
				t.Fatal(err)
			}
		}, "[2001:db8::1]:1001=3"},
		{"an address moves to a new version: the newer registration counts", func() {
			e.put("/user/2.0.0/[2001:db8::1]:1001", `{"weight":4}`)
		}, "[2001:db8::1]:1001@2.0.0=4"},
		{"the older one goes, two come at once", func() {
			_, err := e.Txn(t.Context()).Then(
				clientv3.OpDelete("/user/[2001:db8::1]:1001"),
				clientv3.OpPut("/user/a.example:80", `{}`),
				clientv3.OpPut("/user/b.example:80", `{}`),
			).Commit()
			if err != nil {
				t.Fatal(err)
			}
		}, "[2001:db8::1]:1001@2.0.0=4 a.example:80=1 b.example:80=1"},
	} {
		t.Log(step.name)
		step.do()
		f.await(step.want)
	}
	// On a busy machine it may have expired before it is seen: what counts is that all of it is published.
	short, err := e.Grant(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	e.put("/user/a.example:80", `{"weight":5}`, clientv3.WithLease(short.ID))
	f.awaitPast("[2001:db8::1]:1001@2.0.0=4 a.example:80=5 b.example:80=1")
	f.await("[2001:db8::1]:1001@2.0.0=4 b.example:80=1")
	all, _ := f.all()
	if got, want := len(all), 11; got != want {
		t.Errorf("%d snapshots, want %d: one first and one for each change", got, want)
	}
}

func TestEtcdSnapshotShowsTheRegistry(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	cfg := e.config()
	cfg.Root = "/fleet/a/"
	e.put("/user/10.0.0.1:1001", `{}`) // not below the root
	put, err := e.Put(t.Context(), "/fleet/a/user/1.0.0/10.0.0.7:1001", `{"weight":10}`)
	if err != nil {
		t.Fatal(err)
	}
	s := newSource(t, cfg, registry.Limits{})
	f := s.follow(t, "user")
	created := put.Header.Revision
	want := discovery.Snapshot{Service: "user", Revision: created, Instances: []discovery.Instance{{
		Addr: "10.0.0.7:1001", Version: "1.0.0", Weight: 10,
		Key: "/fleet/a/user/1.0.0/10.0.0.7:1001", Registered: created, CreateRevision: created, ModRevision: created,
	}}}
	if diff := cmp.Diff(want, f.await("10.0.0.7:1001@1.0.0=10")); diff != "" {
		t.Errorf("first snapshot (-want +got):\n%s", diff)
	}
	if put, err = e.Put(t.Context(), "/fleet/a/user/1.0.0/10.0.0.7:1001", `{"weight":11}`); err != nil {
		t.Fatal(err)
	}
	want.Revision = put.Header.Revision
	want.Instances[0].Weight, want.Instances[0].ModRevision = 11, put.Header.Revision
	if diff := cmp.Diff(want, f.await("10.0.0.7:1001@1.0.0=11")); diff != "" {
		t.Errorf("second snapshot (-want +got):\n%s", diff)
	}
	for series, want := range map[string]float64{
		"lbproxy_discovery_instances/user":      1,
		"lbproxy_discovery_revision":            float64(put.Header.Revision),
		"lbproxy_discovery_relists_total/start": 1,
	} {
		if got := s.value(t, series); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
	if got := s.logs.FilterMessage("instances changed").Len(); got != 2 {
		t.Errorf("%d log lines say that instances changed, want one for each snapshot, 2", got)
	}
}

func TestEtcdRunEnds(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	s := newSource(t, e.config(), registry.Limits{})
	t.Run("at once for a name that is none", func(t *testing.T) {
		err := s.Run(t.Context(), "no/name", func(discovery.Snapshot) { t.Error("published") })
		if err == nil || !strings.Contains(err.Error(), `"no/name"`) {
			t.Errorf("got %v, want an error with the name", err)
		}
	})
	t.Run("with the context's cause, its series forgotten", func(t *testing.T) {
		e.put("/user/10.0.0.7:1001", `{}`)
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("nobody calls it")
		err := s.Run(ctx, "user", func(discovery.Snapshot) { cancel(why) })
		if !errors.Is(err, why) {
			t.Errorf("Run returned %v, want %v", err, why)
		}
		if got := s.value(t, "lbproxy_discovery_instances/user"); got != 0 {
			t.Errorf("instances is %v after Run, want no series", got)
		}
	})
}

func TestEtcdProbe(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	s := newSource(t, etcd.Config{
		Endpoints: []string{server.Endpoint()}, DialTimeout: time.Second,
	}, registry.Limits{})
	if err := s.Probe(t.Context()); err != nil {
		t.Errorf("etcd is there: %v", err)
	}
	server.Stop()
	etcdtest.Eventually(t, "an error that says which connection is refused", func() bool { // at first it says that it was lost
		err := s.Probe(t.Context())
		if err == nil {
			t.Fatal("etcd is away, and nothing is said")
		}
		return strings.Contains(err.Error(), server.Endpoint()) && strings.Contains(err.Error(), "connection refused")
	})
}

// One stream carries all watches, and a registry where nothing happens is no reason to distrust it.
func TestEtcdQuietRegistry(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	e.put("/user/10.0.0.7:1001", `{}`)
	var mu sync.Mutex
	var answers int
	proxy := etcdtest.Intercept(t, e.endpoint, func(_ int, r *etcdtest.WatchResponse) bool {
		mu.Lock()
		defer mu.Unlock()
		if !r.Created && len(r.Events) == 0 {
			answers++
		}
		return true
	})
	s := newSource(t, etcd.Config{Endpoints: []string{proxy.Endpoint()}},
		registry.Limits{Progress: 100 * time.Millisecond, Answer: 2500 * time.Millisecond})
	s.follow(t, "user").await("10.0.0.7:1001=1")
	for i := range 20 {
		f := s.follow(t, fmt.Sprintf("service%d", i))
		f.await("")
		if i%2 == 0 {
			f.stop()
		}
	}
	etcdtest.Eventually(t, "eight answers to requests for progress", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return answers >= 8
	})
	if got := s.value(t, "lbproxy_discovery_resumes_total/silence"); got != 0 {
		t.Errorf("%v watches given up because of silence, want 0", got)
	}
	if got := proxy.Streams(); got != 1 {
		t.Errorf("21 watches opened %d streams, want 1", got)
	}
}
