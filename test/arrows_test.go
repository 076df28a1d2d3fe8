// Package test holds what is to be true of the whole module: which package may import which, and that what people
// read names what there is.
package test

import (
	"errors"
	"go/build"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/lbproxy/lbproxy"

// arrows is which packages of the module each package may import, its tests aside. Arrows point one way, from
// what is put together to what it is made of. A package that is missing here is a fault, and so is one that is
// here and nowhere else, and an arrow that nobody uses.
var arrows = map[string][]string{
	// What exists, who is picked, where a call goes: each knows those before it.
	"metrics":                {},
	"discovery":              {},
	"discovery/etcd":         {"metrics", "internal/logsample", "internal/backoff"},
	"discovery/dialect":      {"discovery", "internal/number"},
	"discovery/registry":     {"discovery", "discovery/etcd", "discovery/dialect", "metrics"},
	"discovery/file":         {"discovery", "metrics", "internal/strictyaml", "internal/filewatch"},
	"discovery/registrar":    {"discovery", "discovery/etcd", "discovery/dialect", "internal/backoff"},
	"discovery/grpcresolver": {"discovery"},
	"picker":                 {"discovery", "metrics"},
	"traffic":                {"picker", "discovery"},
	"proxy":                  {"proxy/retry", "proxy/transport", "traffic", "picker", "discovery", "metrics"},
	"proxy/retry":            {},
	"proxy/transport":        {"traffic", "metrics", "internal/logsample"},
	"proxy/grpcengine":       {"proxy", "proxy/retry", "traffic", "proxy/transport", "picker", "internal/logsample"},
	"proxy/h2":               {},
	"proxy/h2/hpack":         {},
	"proxy/h2/session":       {"proxy/h2", "proxy/h2/hpack"},
	"proxy/relay/netpoll":    {},
	"proxy/relay": {
		"proxy", "proxy/retry", "traffic", "proxy/transport", "picker", "metrics", "proxy/h2", "proxy/h2/hpack", "proxy/h2/session", "proxy/relay/netpoll", "internal/logsample",
	},

	// Around them.
	"configs":      {"traffic", "discovery", "discovery/etcd", "picker", "internal/strictyaml"},
	"admin":        {"proxy"},
	"internal/app": {"admin", "configs", "proxy/grpcengine", "proxy/relay", "proxy/transport", "proxy", "traffic", "discovery", "discovery/etcd", "discovery/registry", "discovery/file", "metrics", "internal/portowner"},
	"cmd/lbproxy": {
		"internal/app", "configs", "proxy", "picker", "discovery", "discovery/dialect", "discovery/etcd", "discovery/file", "discovery/registrar",
		"metrics", "internal/filewatch", "internal/terminal",
		"internal/portowner",
		"internal/flagfault",
	},

	// Tools that know nothing of load balancing.
	"internal/backoff":    {},
	"internal/flagfault":  {"internal/strictyaml", "internal/number"},
	"internal/number":     {},
	"internal/strictyaml": {"internal/number"},
	"internal/filewatch":  {},
	"internal/logsample":  {},
	"internal/terminal":   {},
	"internal/portowner":  {},

	// For tests and the playground; see production.
	"internal/embedetcd": {},
	"internal/etcdtest":  {"internal/embedetcd"},
	"cmd/lbproxy-dev": {
		"internal/app", "internal/embedetcd", "internal/terminal", "internal/portowner", "configs", "discovery", "discovery/etcd",
		"discovery/registrar", "proxy", "traffic", "picker",
		"internal/flagfault",
	},
	"bench":    {},
	"test":     {},
	"test/e2e": {},
}

// confined is which packages alone import what comes from elsewhere, by how its path begins; where none does, tests do.
var confined = map[string][]string{
	"go.etcd.io/etcd/":                 {"discovery/etcd", "discovery/registrar", "internal/embedetcd", "internal/etcdtest", "cmd/lbproxy-dev"},
	"go.etcd.io/etcd/server/":          {"internal/embedetcd", "internal/etcdtest"},
	"github.com/mwitkow/grpc-proxy/":   {"proxy/grpcengine"}, // the policy knows no engine
	"github.com/cenkalti/":             {"internal/backoff"},
	"github.com/goccy/go-yaml/":        {"internal/strictyaml", "configs"},
	"github.com/spf13/cobra/":          {"cmd/lbproxy", "cmd/lbproxy-dev", "internal/flagfault"},
	"github.com/HdrHistogram/":         {"bench"},
	"google.golang.org/grpc/examples/": {"cmd/lbproxy-dev"},
	"google.golang.org/grpc/interop/":  {},
	"github.com/google/go-cmp/":        {},
	"go.uber.org/zap/zaptest/":         {},
	"go.uber.org/goleak/":              {"internal/etcdtest"},
	"testing/":                         {"internal/etcdtest"},
}

// production is the root of what is shipped. Nothing that it reaches may be for tests or the playground.
const production = "cmd/lbproxy"

func TestArrows(t *testing.T) {
	packages := packagesOf(t, "..")
	for name, p := range packages {
		allowed, known := arrows[name]
		if !known {
			t.Errorf("package %s has no place in the table of arrows; give it one", name)
			continue
		}
		for _, imported := range p.Imports {
			if ours, ok := strings.CutPrefix(imported, module+"/"); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %q, against the table of arrows, which allows %q", name, ours, allowed)
			}
			for prefix, to := range confined {
				if begins(prefix)(imported) && !slices.Contains(to, name) {
					t.Errorf("%s imports %q, which is for tests and %q only", name, imported, to)
				}
			}
		}
	}
	for name, allowed := range arrows {
		if packages[name] == nil {
			t.Errorf("package %s is in the table of arrows and nowhere else; take it out", name)
			continue
		}
		for _, other := range allowed {
			if !slices.Contains(packages[name].Imports, module+"/"+other) {
				t.Errorf("%s may import %q and does not; take the arrow out", name, other)
			}
		}
	}
	for prefix, to := range confined {
		for _, name := range to {
			if p := packages[name]; p == nil || !slices.ContainsFunc(p.Imports, begins(prefix)) {
				t.Errorf("%s may import %q and does not; take it out", name, prefix)
			}
		}
	}
}

// begins tells whether an import is of a tree of packages.
func begins(prefix string) func(imported string) bool {
	return func(imported string) bool { return strings.HasPrefix(imported+"/", prefix) }
}

// What other modules bring along is for .ci/run to check, which asks the linked binary.
func TestProductionBinaryCarriesNoTestHelpers(t *testing.T) {
	packages := packagesOf(t, "..")
	linked := map[string]bool{}
	var reach func(name string)
	reach = func(name string) {
		if linked[name] || packages[name] == nil {
			return
		}
		linked[name] = true
		for _, imported := range packages[name].Imports {
			if ours, ok := strings.CutPrefix(imported, module+"/"); ok {
				reach(ours)
			}
		}
	}
	reach(production)
	for _, part := range []string{"discovery/registry", "discovery/file", "discovery/registrar", "picker", "traffic", "proxy", "proxy/grpcengine", "configs", "admin"} {
		if !linked[part] {
			t.Errorf("%s does not reach %s, so it cannot be the product", production, part)
		}
	}
	for _, helper := range []string{"internal/embedetcd", "internal/etcdtest", "cmd/lbproxy-dev", "test", "test/e2e"} {
		if linked[helper] {
			t.Errorf("%s reaches %s, which is not to be shipped", production, helper)
		}
	}
}

func TestEveryPackageSaysWhatItDecides(t *testing.T) {
	for name, p := range packagesOf(t, "..") {
		want := "Package " + p.Name + " "
		if p.IsCommand() {
			want = "Command " + path.Base(name) + " "
		}
		if len(p.GoFiles) > 0 && !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: the package's doc comment is %q, want it to begin with %q", name, p.Doc, want)
		}
	}
}

// packagesOf reads all packages below root, for whatever system their files are, by their paths from there. It
// reads the files itself, as running "go list" would hide changes from the cache of test results.
func packagesOf(t *testing.T, root string) map[string]*build.Package {
	t.Helper()
	everything := build.Default
	everything.UseAllFiles = true
	packages := map[string]*build.Package{}
	err := filepath.WalkDir(root, func(dir string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if base := entry.Name(); base == "testdata" || len(base) > 2 && strings.ContainsAny(base[:1], "._") {
			return fs.SkipDir
		}
		p, err := everything.ImportDir(dir, 0)
		var none *build.NoGoError
		if errors.As(err, &none) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, dir)
		packages[filepath.ToSlash(name)] = p
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) < 10 {
		t.Fatalf("found only %v", slices.Sorted(maps.Keys(packages)))
	}
	return packages
}
