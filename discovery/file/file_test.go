package file_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
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

func TestFileReadsInstances(t *testing.T) {
	path := filepath.Join(t.TempDir(), "services.yaml")
	writeFile(t, path, `
services:
  hello:
    - {addr: "127.0.0.1:1002", version: "1.0.0", weight: 10}
    - addr: db.internal:1001
    - {addr: "[::1]:1001", weight: 0}
  empty: []
`)
	f := startFile(t, path, neverPoll)
	want := discovery.Snapshot{Service: "hello", Revision: 1, Instances: []discovery.Instance{
		{Addr: "127.0.0.1:1002", Version: "1.0.0", Weight: 10, Key: path},
		{Addr: "[::1]:1001", Weight: 0, Key: path},
		{Addr: "db.internal:1001", Weight: 1, Key: path},
	}}
	if diff := cmp.Diff(want, f.run("hello").next()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	f.run("empty").want(1)
	f.run("unheard-of").want(1)
	if err := f.Probe(t.Context()); err != nil {
		t.Errorf("probe: %v", err)
	}
	f.eventually("lbproxy_discovery_instances", 3)
	f.eventually("lbproxy_discovery_revision", 1)
}

// However the file is changed, the change arrives by way of the operating system's notice.
func TestFileFollowsChanges(t *testing.T) {
	for _, test := range []struct {
		name   string
		layout func(t *testing.T, dir, path string) // before the start, with helloFile(1) in the file
		change func(t *testing.T, dir, path string) // to helloFile(2)
	}{
		{
			"written in place",
			func(t *testing.T, _, path string) { writeFile(t, path, helloFile(1)) },
			func(t *testing.T, _, path string) { writeInPlace(t, path, helloFile(2)) },
		},
		{
			"another renamed over it",
			func(t *testing.T, _, path string) { writeFile(t, path, helloFile(1)) },
			func(t *testing.T, _, path string) { writeFile(t, path, helloFile(2)) },
		},
		{
			"removed and created",
			func(t *testing.T, _, path string) { writeFile(t, path, helloFile(1)) },
			func(t *testing.T, _, path string) {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				writeFile(t, path, helloFile(2))
			},
		},
		{
			"the links of a ConfigMap swapped",
			func(t *testing.T, dir, path string) {
				configMap(t, dir, "..1", helloFile(1))
				symlinkFile(t, "..1", filepath.Join(dir, "..data"))
				symlinkFile(t, filepath.Join("..data", filepath.Base(path)), path)
			},
			func(t *testing.T, dir, _ string) {
				configMap(t, dir, "..2", helloFile(2))
				symlinkFile(t, "..2", filepath.Join(dir, "..data_tmp"))
				renameFile(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
				if err := os.RemoveAll(filepath.Join(dir, "..1")); err != nil {
					t.Fatal(err)
				}
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "services.yaml")
			test.layout(t, dir, path)
			r := startFile(t, path, neverPoll).run("hello")
			r.want(1, "127.0.0.1:1001//1")
			test.change(t, dir, path)
			r.want(2, "127.0.0.1:1001//2")
		})
	}
}

// generation makes what a kubelet puts beside the links: a directory with the files.
func configMap(t *testing.T, dir, name, data string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, name, "services.yaml"), data)
}

func TestFileThatIsALinkElsewhereIsPolled(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "real.yaml")
	writeFile(t, elsewhere, helloFile(1))
	path := filepath.Join(t.TempDir(), "services.yaml")
	symlinkFile(t, elsewhere, path)
	r := startFile(t, path, 10*time.Millisecond).run("hello")
	r.want(1, "127.0.0.1:1001//1")
	writeFile(t, elsewhere, helloFile(2))
	r.want(2, "127.0.0.1:1001//2")
}

func TestFileOutlivesItsDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	path := filepath.Join(dir, "services.yaml")
	makeDir := func() {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	makeDir()
	writeFile(t, path, helloFile(1))
	r := startFile(t, path, 10*time.Millisecond).run("hello")
	r.want(1, "127.0.0.1:1001//1")
	renameFile(t, dir, dir+".old")
	makeDir()
	writeFile(t, path, helloFile(2))
	r.want(2, "127.0.0.1:1001//2")
}

func TestBrokenFileKeepsTheOldState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "services.yaml")
	writeFile(t, path, helloFile(1))
	f := startFile(t, path, neverPoll)
	r := f.run("hello")
	r.want(1, "127.0.0.1:1001//1")

	writeFile(t, path, "services:\n  hello:\n    - {addr: here, weight: heavy}\n    - {addr: \"[::]:1001\"}\n")
	f.eventually("lbproxy_discovery_file_errors_total", 1)
	f.eventually("lbproxy_discovery_file_last_load_successful", 0)
	if err := f.Probe(t.Context()); err != nil {
		t.Errorf("probe: %v, want none: the old state still serves", err)
	}
	f.run("hello").want(1, "127.0.0.1:1001//1") // for those who come now, too

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	f.eventually("lbproxy_discovery_file_errors_total", 2)

	writeFile(t, path, helloFile(2))
	r.want(2, "127.0.0.1:1001//2") // and nothing was published in between
	f.eventually("lbproxy_discovery_file_last_load_successful", 1)

	var got []string
	for _, e := range f.logs.FilterLevelExact(zapcore.ErrorLevel).All() {
		got = append(got, strings.ReplaceAll(e.ContextMap()["error"].(string), path, "services.yaml"))
	}
	want := []string{
		`services.yaml:3: services.hello[0].weight: want a whole number, such as 10, got the text "heavy"
services.yaml:3: services.hello[0].addr: address "here" is not host:port
services.yaml:4: services.hello[1].addr: address "[::]:1001": :: means every address of whichever machine dials it; ` +
			`use an address at which other machines reach this one, such as 10.0.0.7`,
		"open services.yaml: no such file or directory",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("errors logged: -want +got:\n%s", diff)
	}
}

func TestMissingFileIsWaitedFor(t *testing.T) {
	for _, test := range []struct {
		name string
		poll time.Duration
		dir  func(string) string
	}{
		{"in a directory", neverPoll, func(dir string) string { return dir }},
		{"in no directory", 10 * time.Millisecond, func(dir string) string { return filepath.Join(dir, "later") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := test.dir(t.TempDir())
			path := filepath.Join(dir, "services.yaml")
			f := startFile(t, path, test.poll)
			if err := f.Probe(t.Context()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
				t.Errorf("probe: %v, want that %s does not exist", err, path)
			}
			if n := f.logs.FilterLevelExact(zapcore.ErrorLevel).Len(); n != 1 {
				t.Errorf("%d errors logged, want 1", n)
			}
			r := f.run("hello")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			writeFile(t, path, helloFile(1))
			r.want(1, "127.0.0.1:1001//1") // the first that is published
			if err := f.Probe(t.Context()); err != nil {
				t.Errorf("probe: %v", err)
			}
		})
	}
}

func TestFilePublishesOnlyRealChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "services.yaml")
	a, b := `{addr: "127.0.0.1:1"}`, `{addr: "127.0.0.1:2"}`
	writeFile(t, path, fmt.Sprintf("services: {hello: [%s, %s]}", a, b))
	f := startFile(t, path, neverPoll)
	r, other := f.run("hello"), f.run("other")
	r.want(1, "127.0.0.1:1//1", "127.0.0.1:2//1")
	other.want(1)

	writeFile(t, path, fmt.Sprintf("# in another order\nservices: {hello: [%s, %s], other: [%s]}", b, a, a))
	other.want(2, "127.0.0.1:1//1")

	writeFile(t, path, fmt.Sprintf("services: {hello: [%s], other: [%s]}", b, a))
	r.want(3, "127.0.0.1:2//1")

	writeFile(t, path, "services: {}")
	r.want(4)
	other.want(4)
}

func TestFileServesManyServices(t *testing.T) {
	const services = 300
	path := filepath.Join(t.TempDir(), "services.yaml")
	content := func(weight int) string {
		var b strings.Builder
		b.WriteString("services:\n")
		for i := range services {
			fmt.Fprintf(&b, "  s%d: [{addr: \"127.0.0.1:%d\", weight: %d}]\n", i, i+1, weight)
		}
		return b.String()
	}
	writeFile(t, path, content(1))
	f := startFile(t, path, neverPoll)
	var all []*fileRun
	for i := range services {
		all = append(all, f.run(fmt.Sprintf("s%d", i)))
	}
	for i, r := range all {
		r.want(1, fmt.Sprintf("127.0.0.1:%d//1", i+1))
	}
	writeFile(t, path, content(2))
	for i, r := range all {
		r.want(2, fmt.Sprintf("127.0.0.1:%d//2", i+1))
	}
	f.eventually("lbproxy_discovery_instances", services)
}

func TestRunEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "services.yaml")
	writeFile(t, path, helloFile(1))
	f := startFile(t, path, neverPoll)

	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := f.Run(ctx, "hello", func(discovery.Snapshot) { cancel(enough) })
	if !errors.Is(err, enough) {
		t.Errorf("Run returned %v, want the cause", err)
	}
	if n, _ := testutil.GatherAndCount(f.reg, "lbproxy_discovery_instances"); n != 0 {
		t.Errorf("%d series left after Run, want 0", n)
	}

	r := f.run("hello")
	r.next()
	f.Close()
	select {
	case err := <-r.ended:
		if err == nil {
			t.Error("Run returned no error after Close")
		}
	case <-time.After(patience):
		t.Fatal("Run goes on after Close")
	}
}

func TestServicesFileFaults(t *testing.T) {
	for _, test := range []struct{ name, data, want string }{
		{"empty", "", `f.yaml: services: there are none; write "services: {}" if that is meant`},
		{"cut off", "services:\n  hello:\n", `f.yaml:2: services.hello: there are no instances; write "hello: []" if that is meant`},
		{"another form", "hello: []\n", `f.yaml: services: there are none; write "services: {}" if that is meant
f.yaml:1: hello: unknown key; known here are services`},
		{"all at once", `
services:
  "hello world": []
  hello:
    - {addr: "127.0.0.1:1", weight: 65536}
    - {addr: "127.0.0.1", version: "1 0", wieght: 1}
    - {addr: "127.0.0.1:1", weight: -1}
    - {weight: 1.5}
`, `f.yaml:3: services["hello world"]: service name "hello world" holds ' '; use letters, digits, '.', '_' and '-'
f.yaml:5: services.hello[0].weight: weight 65536 is out of range; use 0 (drained) to 65535
f.yaml:6: services.hello[1].wieght: unknown key; did you mean weight?
f.yaml:6: services.hello[1].addr: address "127.0.0.1" is not host:port
f.yaml:6: services.hello[1].version: version "1 0" holds ' '; use letters, digits, '.', '_' and '-'
f.yaml:7: services.hello[2].weight: weight -1 is out of range; use 0 (drained) to 65535
f.yaml:7: services.hello[2].addr: address "127.0.0.1:1" is listed twice, first in line 5; remove one
f.yaml:8: services.hello[3].weight: want a whole number, such as 10, got the number 1.5
f.yaml:8: services.hello[3].addr: address "" is not host:port`},
		{"syntax", "services:\n  hello: [\n", "f.yaml:2: not YAML: sequence end token ']' not found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := file.ParseInstances("f.yaml", []byte(test.data))
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// FuzzServicesFile: whatever is accepted holds only instances that can be used, each address once, in order.
func FuzzServicesFile(f *testing.F) {
	f.Add([]byte(helloFile(1)))
	f.Add([]byte("services: {a: [], b.c: [{addr: 'h:1', version: '1', weight: 0}, {addr: 'g:2'}]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		services, err := file.ParseInstances("f.yaml", data)
		if err != nil {
			return
		}
		for name, instances := range services {
			err := discovery.ValidateService(name)
			for _, in := range instances {
				err = errors.Join(err, discovery.ValidateAddr(in.Addr), discovery.ValidateVersion(in.Version), discovery.ValidateWeight(in.Weight))
			}
			if err != nil {
				t.Error(err)
			}
			if !slices.IsSortedFunc(instances, func(a, b discovery.Instance) int {
				if a.Addr == b.Addr {
					return 1
				}
				return strings.Compare(a.Addr, b.Addr)
			}) {
				t.Errorf("addresses are not sorted and unique: %v", instances)
			}
		}
	})
}

func BenchmarkServicesFile(b *testing.B) {
	var data strings.Builder
	data.WriteString("services:\n  hello:\n")
	for i := range 10_000 {
		fmt.Fprintf(&data, "    - {addr: \"10.0.%d.%d:1001\", version: \"1.0.0\", weight: 10}\n", i/250, i%250)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := file.ParseInstances("f.yaml", []byte(data.String())); err != nil {
			b.Fatal(err)
		}
	}
}
