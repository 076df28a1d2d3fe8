package e2e

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery"
)

const (
	h2specPackage = "github.com/summerwind/h2spec/cmd/h2spec"
	h2specCases   = 145
)

// The relay is a server as RFC 9113 and RFC 7541 want it, by the judgement of h2spec. The reference engine's
// library, not ours, is what h2spec would judge there.
//
// It has a step of its own in .ci/run: it fetches what the module does not need otherwise, and h2spec's own timeouts
// want the machine for themselves.
func TestH2Spec(t *testing.T) {
	if os.Getenv("LBPROXY_H2SPEC") == "" {
		t.Skip("set LBPROXY_H2SPEC=1 to fetch, build and run h2spec")
	}
	h2spec := buildH2Spec(t)
	w := newWorld(t, engine{name: configs.EngineRelay})
	echo := startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // h2spec breaks off many of its requests
		}
		w.Write(append([]byte("echo: "), body...))
	})
	w.startRegistrar(w.client, "echo", discovery.Instance{Addr: echo, Weight: 1})
	p := w.startProxy(listed("echo"), boundTo("echo"))
	p.awaitReady("echo", 1)

	host, port, err := net.SplitHostPort(p.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	out, err := exec.CommandContext(t.Context(), h2spec, "--host", host, "--port", port, "-o", "2", "-j", report).CombinedOutput()
	passed, failed := readH2SpecReport(t, report)
	for _, f := range failed {
		t.Error(f)
	}
	t.Logf("%d of %d cases pass", passed, h2specCases)
	if len(failed) == 0 && (passed != h2specCases || err != nil) {
		t.Errorf("h2spec ends by %v\n%s", err, out)
	}
}

// boundTo binds the proxy's first listener to a service.
func boundTo(service string) func(*configs.Config) {
	return func(cfg *configs.Config) { cfg.Listeners[0].Service = service }
}

// buildH2Spec returns the path of h2spec, built in the module that pins it.
func buildH2Spec(t *testing.T) string {
	t.Helper()
	h2spec := filepath.Join(t.TempDir(), "h2spec")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", h2spec, h2specPackage)
	cmd.Dir = filepath.Join("testdata", "h2spec")
	cmd.Env = append(os.Environ(), "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v; h2spec comes from the module proxy, is there a network?\n%s", err, out)
	}
	return h2spec
}

// readH2SpecReport reads a report in JUnit's format: how many cases passed, and what is to be said of the others.
func readH2SpecReport(t *testing.T, path string) (passed int, failed []string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// What the cases got stands there as it came, bytes included that XML cannot hold.
	raw = bytes.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, raw)
	type result struct {
		Text string `xml:",chardata"`
	}
	var report struct {
		Suites []struct {
			Name  string `xml:"name,attr"`
			Cases []struct {
				Package string  `xml:"package,attr"`
				Name    string  `xml:"classname,attr"`
				Failure *result `xml:"failure"`
				Error   *result `xml:"error"`
				Skipped *result `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(raw, &report); err != nil {
		t.Fatal(err)
	}
	for _, s := range report.Suites {
		for _, c := range s.Cases {
			for what, r := range map[string]*result{"fails": c.Failure, "breaks": c.Error, "is skipped": c.Skipped} {
				if r != nil {
					failed = append(failed, fmt.Sprintf("%s (%s): %q %s: %s", c.Package, s.Name, c.Name, what, r.Text))
				}
			}
			if c.Failure == nil && c.Error == nil && c.Skipped == nil {
				passed++
			}
		}
	}
	return passed, failed
}
