//go:build linux

package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/configs"
)

func TestConfigure(t *testing.T) {
	address := netip.MustParseAddrPort("127.0.0.1:1000")
	backends := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1001"), netip.MustParseAddrPort("127.0.0.1:1002")}
	for _, p := range proxies {
		dir := t.TempDir()
		if err := p.configure(address, backends, dir); err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		var all strings.Builder
		for _, name := range p.configs {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			all.Write(text)
		}
		for _, each := range append(backends, address) {
			text := strings.ReplaceAll(all.String(), "127.0.0.1,", "127.0.0.1:") // nghttpx writes it so
			if p.program != "" && strings.Count(text, each.String()) != 1 {
				t.Errorf("%s: not one mention of %s in:\n%s", p, each, text)
			}
		}
		if p.engine != "" {
			c, err := configs.Load(filepath.Join(dir, "lbproxy.yaml"))
			if err != nil {
				t.Errorf("%s: %v", p, err)
			} else if c.Engine != p.Name {
				t.Errorf("%s has engine %s", p, c.Engine)
			}
		}
	}
}

func TestPlannedPackages(t *testing.T) {
	const plan = `Reading package lists...
Inst libnghttp2-14 [1.52.0-1] (1.52.0-2 Debian:12/oldstable [amd64])
Inst nginx (1.22.1-9 Debian:12/oldstable [amd64])
Conf nginx (1.22.1-9 Debian:12/oldstable [amd64])
`
	if diff := cmp.Diff([]string{"libnghttp2-14", "nginx"}, plannedPackages([]byte(plan))); diff != "" {
		t.Error(diff)
	}
}
