package file_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap/zapcore"

	"github.com/lbproxy/lbproxy/discovery"
)

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
