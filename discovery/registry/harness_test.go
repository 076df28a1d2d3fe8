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

// awaitProgress waits until etcd has told progress: then the watch is there, and has told all that came before.
func (f *follower) awaitProgress() {
	f.t.Helper()
	start := time.Now()
	etcdtest.Eventually(f.t, "progress", func() bool { return f.source.Standing(f.service).Confirmed.After(start) })
}

// awaitPast waits until there has been a snapshot that reads as wanted.
func (f *follower) awaitPast(want string) {
	f.t.Helper()
	etcdtest.Eventually(f.t, want, func() bool {
		all, _ := f.all()
		return slices.ContainsFunc(all, func(s discovery.Snapshot) bool { return brief(s.Instances) == want })
	})
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
