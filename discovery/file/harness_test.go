package file_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/file"
	"github.com/lbproxy/lbproxy/metrics"
)

const (
	neverPoll = time.Hour // a poll that a test does not see
	patience  = 20 * time.Second
)

// fileTest is a File, its file and what comes of it.
type fileTest struct {
	*file.Source
	t    *testing.T
	path string
	reg  *prometheus.Registry
	logs *observer.ObservedLogs
}

func startFile(t *testing.T, path string, poll time.Duration) *fileTest {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	core, logs := observer.New(zapcore.InfoLevel)
	f := &fileTest{t: t, path: path, reg: prometheus.NewRegistry(), logs: logs}
	f.Source = file.NewWithPoll(path, metrics.NewDiscovery(f.reg), zap.New(core), poll)
	t.Cleanup(func() {
		f.Close()
		goleak.VerifyNone(t, leaks)
	})
	return f
}

// run follows a service until the test ends.
func (f *fileTest) run(service string) *fileRun {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	r := &fileRun{t: f.t, snapshots: make(chan discovery.Snapshot, 16), ended: make(chan error, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.ended <- f.Run(ctx, service, func(s discovery.Snapshot) { r.snapshots <- s })
	}()
	f.t.Cleanup(func() { cancel(); <-done })
	return r
}

// eventually waits for a metric to have a value.
func (f *fileTest) eventually(metric string, want float64) {
	f.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if got := f.metric(metric); got == want {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			f.t.Fatalf("%s = %v, want %v", metric, f.metric(metric), want)
		}
	}
}

func (f *fileTest) metric(name string) (sum float64) {
	f.t.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.Metric {
			if family.GetName() == name {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

type fileRun struct {
	t         *testing.T
	snapshots chan discovery.Snapshot
	ended     chan error
}

func (r *fileRun) next() discovery.Snapshot {
	r.t.Helper()
	select {
	case s := <-r.snapshots:
		return s
	case err := <-r.ended:
		r.t.Fatalf("Run has ended: %v", err)
	case <-time.After(patience):
		r.t.Fatal("no snapshot")
	}
	return discovery.Snapshot{}
}

// want waits for the next snapshot and compares it; instances are written ADDR/VERSION/WEIGHT.
func (r *fileRun) want(revision int64, instances ...string) {
	r.t.Helper()
	s := r.next()
	got := []string{}
	for _, in := range s.Instances {
		got = append(got, fmt.Sprintf("%s/%s/%d", in.Addr, in.Version, in.Weight))
	}
	if diff := cmp.Diff(append([]string{}, instances...), got); diff != "" || s.Revision != revision {
		r.t.Fatalf("snapshot at revision %d, want %d; instances -want +got:\n%s", s.Revision, revision, diff)
	}
}

// writeFile replaces a file in one step, so that no reader finds half of it.
func writeFile(t *testing.T, path, data string) {
	t.Helper()
	writeInPlace(t, path+".new", data)
	renameFile(t, path+".new", path)
}

func writeInPlace(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func renameFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func symlinkFile(t *testing.T, target, link string) {
	t.Helper()
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
}

func helloFile(weight int) string {
	return fmt.Sprintf("services:\n  hello:\n    - {addr: \"127.0.0.1:1001\", weight: %d}\n", weight)
}
