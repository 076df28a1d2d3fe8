package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/configs"
)

// Without etcd, instances come from a file, and follow it.
func TestInstancesFromAFile(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		path := filepath.Join(t.TempDir(), "instances.yaml")
		write := func(weights map[string]int) {
			file := "services:\n  hello:\n"
			for addr, weight := range weights {
				file += fmt.Sprintf("    - {addr: %q, weight: %d}\n", addr, weight)
			}
			if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		one, two := startBackend(t), startBackend(t)
		write(map[string]int{one.addr: 1})
		p := w.startProxy(listed("hello"), func(cfg *configs.Config) {
			cfg.Discovery.Etcd, cfg.Discovery.File.Path = nil, path
		})
		p.awaitReady("hello", 1)
		cc := p.dial("hello")
		greet(t, cc, 3)

		write(map[string]int{one.addr: 1, two.addr: 3})
		p.awaitReady("hello", 2)
		if diff := cmp.Diff(greet(t, cc, 40), map[string]int{one.addr: 10, two.addr: 30}); diff != "" {
			t.Errorf("answers (-got +want):\n%s", diff)
		}
	})
}
