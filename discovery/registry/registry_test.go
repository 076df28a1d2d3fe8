package registry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registry"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
	"github.com/lbproxy/lbproxy/metrics"
)

// patience bounds what a test waits for. Nothing takes that long unless it is broken.
const patience = 30 * time.Second

// A source is an etcd source with everything that it tells.
type source struct {
	*registry.Source
	series *prometheus.Registry
	logs   *observer.ObservedLogs
}

func newSource(t testing.TB, cfg etcd.Config, limits registry.Limits) *source {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	client := newClient(t, cfg, core)
	series := prometheus.NewRegistry()
	s := &source{registry.New(client, metrics.NewDiscovery(series), zap.New(core)), series, logs}
	s.Limit(limits)
	return s
}

func newClient(t testing.TB, cfg etcd.Config, log ...zapcore.Core) *etcd.Client {
	t.Helper()
	client, err := etcd.NewClient(cfg, zap.New(zapcore.NewTee(log...)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// value is a series' value: "name", or "name/label value" where it has one label. It is 0 where there is none.
func (s *source) value(t testing.TB, series string) float64 {
	t.Helper()
	families, err := s.series.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += "/" + l.GetValue()
			}
			if name == series {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

// A follower is a service as its source has published it so far.
type follower struct {
	t       testing.TB
	source  *source
	service string
	stop    func() error // ends Run and returns what it returned

	mu        sync.Mutex // protects:
	snapshots []discovery.Snapshot
	changed   chan struct{} // closed at the next snapshot
}

func (s *source) follow(t testing.TB, service string) *follower {
	t.Helper()
	f := &follower{t: t, source: s, service: service, changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, service, f.add) }() // ends with the test, see stop
	f.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("Run did not return")
		}
	})
	t.Cleanup(func() {
		if err := f.stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Run(%s) returned %v, want that its context was canceled", service, err)
		}
	})
	return f
}

func (f *follower) add(s discovery.Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.snapshots = append(f.snapshots, s)
	close(f.changed)
	f.changed = make(chan struct{})
}

// all is every snapshot so far, and a channel that is closed at the next.
func (f *follower) all() ([]discovery.Snapshot, chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.snapshots), f.changed
}

// await waits for a last snapshot that reads as wanted: "addr=weight ..." or "addr@version=weight ...".
func (f *follower) await(want string) discovery.Snapshot {
	f.t.Helper()
	var last string
	timeout := time.After(patience)
	for {
		all, changed := f.all()
		if n := len(all); n > 0 {
			if last = brief(all[n-1].Instances); last == want {
				return all[n-1]
			}
		}
		select {
		case <-changed:
		case <-timeout:
			f.t.Fatalf("last snapshot of %s is %q, want %q", f.service, last, want)
		}
	}
}

func brief(instances []discovery.Instance) string {
	var all []string
	for _, in := range instances {
		s := in.Addr
		if in.Version != "" {
			s += "@" + in.Version
		}
		all = append(all, fmt.Sprintf("%s=%d", s, in.Weight))
	}
	return strings.Join(all, " ")
}

// A store is a test's own etcd, and the means to change it.
type store struct {
	*clientv3.Client
	t        testing.TB
	endpoint string
}

func newStore(t testing.TB) store {
	t.Helper()
	endpoint := etcdtest.Start(t).Endpoint()
	return store{etcdtest.Client(t, endpoint), t, endpoint}
}

func (e store) config() etcd.Config {
	return etcd.Config{Endpoints: []string{e.endpoint}}
}

func (e store) put(key, value string, opts ...clientv3.OpOption) {
	e.t.Helper()
	if _, err := e.Put(e.t.Context(), key, value, opts...); err != nil {
		e.t.Fatal(err)
	}
}

func (e store) delete(key string) {
	e.t.Helper()
	if _, err := e.Delete(e.t.Context(), key); err != nil {
		e.t.Fatal(err)
	}
}

func TestEtcdFollowsTheRegistry(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	lease, err := e.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	short, err := e.Grant(t.Context(), 1)
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
				clientv3.OpPut("/user/a.example:80", `{}`, clientv3.WithLease(short.ID)),
				clientv3.OpPut("/user/b.example:80", `{}`),
			).Commit()
			if err != nil {
				t.Fatal(err)
			}
		}, "[2001:db8::1]:1001@2.0.0=4 a.example:80=1 b.example:80=1"},
		{"a lease expires", func() {}, "[2001:db8::1]:1001@2.0.0=4 b.example:80=1"},
	} {
		t.Log(step.name)
		step.do()
		f.await(step.want)
	}
	all, _ := f.all()
	if got, want := len(all), 10; got != want {
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
