package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// softLimit starts lbproxy with a soft limit of that many file descriptors, below the hard limit.
func softLimit(n int) []string {
	return []string{"sh", "-c", fmt.Sprintf(`ulimit -S -n %d && exec "$0" "$@"`, n)}
}

// The soft limit of file descriptors is raised to the hard one, and that many are shared out.
func TestServeRaisesTheLimitOfDescriptors(t *testing.T) {
	instances := filepath.Join(t.TempDir(), "instances.yaml")
	if err := os.WriteFile(instances, []byte("services: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startBy(t, softLimit(200), "serve", "--log-format", "json", "--instances", instances, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	p.awaitLog("listening for admin")
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`Max open files +(\d+) +(\d+)`).FindStringSubmatch(string(limits))
	if found == nil || found[1] != found[2] || found[1] == "200" {
		t.Fatalf("limits of open files %q: want the soft one raised to the hard one", found)
	}
	if want := `"limit":` + found[1]; !strings.Contains(p.stderr.String(), want) {
		t.Errorf("the log does not say %s", want)
	}
}

// A command keeps the limit that register was started with: programs that use select(2) break above 1024.
func TestRegisterLeavesTheLimitOfDescriptorsToItsCommand(t *testing.T) {
	p := startBy(t, softLimit(200), "register", "--name", "hello", "--addr", "127.0.0.1:1", "--",
		"sh", "-c", "echo soft limit $(ulimit -S -n); exit 7")
	if got := p.awaitLine("soft limit "); got != "200" {
		t.Errorf("the command's soft limit is %s, want 200", got)
	}
	p.awaitExit(7)
}
