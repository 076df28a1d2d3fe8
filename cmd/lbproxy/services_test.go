package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
)

// spaced collapses runs of spaces and trims the ends of lines.
func spaced(text string) string {
	return regexp.MustCompile(` +\n`).ReplaceAllString(regexp.MustCompile(` +`).ReplaceAllString(text, " "), "\n")
}

func TestServicesText(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	service := func(state proxy.RegistryState, confirmed float64, change func(*proxy.ServiceStatus)) proxy.ServiceStatus {
		s := proxy.ServiceStatus{Service: "hello", Listed: true, Status: picker.Status{Policy: "random", Revision: 7}}
		s.Registry, s.Confirmed = state, &confirmed
		change(&s)
		return s
	}
	const header = "ADDRESS VERSION WEIGHT STATE FOR IN FLIGHT CALLS CALLS/S ERRORS P99 LAST ERROR\n"
	for _, test := range []struct {
		name   string
		s      proxy.ServiceStatus
		want   string // of services hello
		column string // REGISTRY, of services
		code   int
	}{
		{
			"instances", service(proxy.RegistryFilled, 4.2, func(s *proxy.ServiceStatus) {
				s.Instances = []picker.EndpointStatus{
					{
						Addr: "10.0.0.1:1", Version: "1.0.0", Weight: 10, State: "ready", Since: ago(time.Hour), InFlight: 2, Calls: 700,
						Recent:    &metrics.Recent{CallsPerSecond: 12.34, ErrorShare: 0.256, P99Seconds: 0.0031457},
						LastError: "connection refused", LastErrorAt: ago(time.Hour),
					},
					{Addr: "10.0.0.2:1", Weight: 1, State: "ready", Since: ago(5 * time.Second), LastError: "reset", LastErrorAt: ago(6 * time.Second)},
					{Addr: "10.0.0.3:1", Weight: 1, State: "failed", Since: ago(time.Hour), LastError: "one:\n\ttwo \x1b[2J", LastErrorAt: ago(90 * time.Minute)},
				}
			}),
			header + `10.0.0.1:1 1.0.0 10 ready 1h0m0s 2 700 12.3 25.6% 3.15ms -
10.0.0.2:1 - 1 ready 5s 0 0 - - - 6s ago: reset
10.0.0.3:1 - 1 failed 1h0m0s 0 0 - - - 1h30m0s ago: one: two \x1b[2J
The registry confirmed this 4s ago, revision 7.
`, "4s ago", 0,
		},
		{
			"a registry that has gone away", service(proxy.RegistryFilled, 300, func(s *proxy.ServiceStatus) {
				s.Instances = []picker.EndpointStatus{{Addr: "10.0.0.1:1", State: "ready", Since: ago(time.Hour)}}
				s.RegistryError = "connection refused"
			}),
			header + `10.0.0.1:1 - 0 ready 1h0m0s 0 0 - - - -
The registry confirmed this 5m0s ago, revision 7, and cannot now: connection refused.
`, "5m0s ago", 0,
		},
		{
			"a registry behind a proxy", service(proxy.RegistryFilled, 25, func(s *proxy.ServiceStatus) {
				s.Instances = []picker.EndpointStatus{{Addr: "10.0.0.1:1", State: "ready", Since: ago(time.Hour)}}
				s.RegistryNote = "etcd answers no requests for progress"
			}),
			header + `10.0.0.1:1 - 0 ready 1h0m0s 0 0 - - - -
The registry confirmed this 25s ago, revision 7.
Note: etcd answers no requests for progress.
`, "25s ago", 0,
		},
		{
			"poisoned beside good", service(proxy.RegistryFilled, 1, func(s *proxy.ServiceStatus) {
				s.Instances = []picker.EndpointStatus{{Addr: "10.0.0.1:1", State: "ready", Since: ago(time.Hour)}}
				s.Poisoned = []picker.PoisonedStatus{{Key: "/hello/10.0.0.2:1", Revision: 5, Fault: "weight -1 is out of range"}}
			}),
			header + `10.0.0.1:1 - 0 ready 1h0m0s 0 0 - - - -
POISONED ENTRY REVISION FAULT
/hello/10.0.0.2:1 5 weight -1 is out of range
The registry confirmed this 1s ago, revision 7.
`, "1 poisoned, 1s ago", 0,
		},
		{
			"poisoned alone", service(proxy.RegistryEmpty, 1, func(s *proxy.ServiceStatus) {
				s.Poisoned = []picker.PoisonedStatus{{Key: "/hello/10.0.0.2:1", Revision: 5, Fault: "no JSON"}}
			}),
			`POISONED ENTRY REVISION FAULT
/hello/10.0.0.2:1 5 no JSON
hello has no instances: no entry in the registry can be used; put them right.
The registry confirmed this 1s ago, revision 7.
`, "empty, 1 poisoned, 1s ago", exitEmpty,
		},
		{
			"empty", service(proxy.RegistryEmpty, 1, func(*proxy.ServiceStatus) {}),
			"hello has no instances: none is registered now; start one.\nThe registry confirmed this 1s ago, revision 7.\n",
			"empty, 1s ago", exitEmpty,
		},
		{
			"unknown", service(proxy.RegistryUnknown, 1, func(*proxy.ServiceStatus) {}),
			"hello is unknown: nothing has been registered under this name; check the name, and that an instance runs and registers.\n" +
				"The registry confirmed this 1s ago, revision 7.\n",
			"unknown, 1s ago", exitUnknown,
		},
		{
			"unsynced", service(proxy.RegistryUnsynced, 0, func(s *proxy.ServiceStatus) {
				s.Confirmed, s.RegistryError = nil, "connection refused"
			}),
			"The registry has not answered yet, so nothing is known of hello: connection refused.\n", "has not answered", exitUnsynced,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, spaced(servicesText([]proxy.ServiceStatus{test.s}, true, now))); diff != "" {
				t.Errorf("services hello: -want +got:\n%s", diff)
			}
			if got := registryColumn(test.s); got != test.column {
				t.Errorf("REGISTRY is %q, want %q", got, test.column)
			}
			code := 0
			if err := standingError(test.s.Registry); err != nil {
				code = err.(*exitError).code
			}
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
		})
	}
}

func TestServicesWithoutInstances(t *testing.T) {
	etcd := etcdtest.Start(t)
	client := etcdtest.Client(t, etcd.Endpoint())
	if _, err := client.Put(t.Context(), "/pay/1.0.0/127.0.0.1:22001", `{"weight":"heavy"}`); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "lbproxy.yaml")
	write(t, config, fmt.Sprintf(`
listeners: [{address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
discovery: {etcd: {endpoints: [%q]}}
services: {pay: {}, nobody: {}}
`, etcd.Endpoint()))
	s := &serving{subprocess: start(t, "serve", "--config", config)}
	s.awaitLog(`"msg":"ready"`)
	s.admin = s.logged(`"listening for admin","address":"([^"]+)"`)
	for _, test := range []struct {
		service string
		code    int
		want    []string
	}{
		{"pay", exitEmpty, []string{"POISONED ENTRY", "/pay/1.0.0/127.0.0.1:22001", "weight", "pay has no instances"}},
		{"nobody", exitUnknown, []string{"nobody is unknown", "The registry confirmed this"}},
	} {
		etcdtest.Eventually(t, test.service+" is known", func() bool {
			code, _, _ := lbproxy(t, "services", test.service, "--admin", s.admin)
			return code == test.code
		})
		code, stdout, stderr := lbproxy(t, "services", test.service, "--admin", s.admin)
		for _, want := range test.want {
			if code != test.code || stderr != "" || !strings.Contains(stdout, want) {
				t.Errorf("%s: exit code %d, %s%s\nwant %d with %q", test.service, code, stdout, stderr, test.code, want)
			}
		}
		code, stdout, _ = lbproxy(t, "services", test.service, "-o", "json", "--admin", s.admin)
		if !json.Valid([]byte(stdout)) || code != test.code {
			t.Errorf("%s -o json: exit code %d, %s", test.service, code, stdout)
		}
	}
	if code, stdout, _ := lbproxy(t, "services", "--admin", s.admin); code != 0 || !strings.Contains(stdout, "empty, 1 poisoned, ") {
		t.Errorf("services: exit code %d, %s", code, stdout)
	}
}

func TestServicesBeforeTheRegistryAnswers(t *testing.T) {
	config := filepath.Join(t.TempDir(), "lbproxy.yaml")
	write(t, config, `
listeners: [{address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
discovery: {etcd: {endpoints: ["127.0.0.1:1"]}}
services: {hello: {}}
`)
	s := &serving{subprocess: start(t, "serve", "--config", config)}
	s.awaitLog(`listening for admin`)
	s.admin = s.logged(`"listening for admin","address":"([^"]+)"`)
	code, stdout, _ := lbproxy(t, "services", "hello", "--admin", s.admin)
	if code != exitUnsynced || !strings.Contains(stdout, "The registry has not answered yet, so nothing is known of hello") {
		t.Errorf("exit code %d, %s", code, stdout)
	}
}

func TestServicesWatched(t *testing.T) {
	s := startServing(t, "services: {hello: {}}")
	p := start(t, "services", "--watch", "--admin", s.admin)
	for range 2 {
		p.awaitLine("SERVICE")
		p.awaitLine("hello")
	}
	s.send(syscall.SIGTERM)
	s.awaitExit(0)
	p.awaitLine("no proxy answers at " + s.admin)
	p.send(syscall.SIGINT)
	p.awaitExit(0)

	if code, _, stderr := lbproxy(t, "services", "--watch", "--admin", s.admin); code != 1 || !strings.Contains(stderr, "no proxy answers") {
		t.Errorf("without a proxy: exit code %d, %s", code, stderr)
	}
	if code, _, stderr := lbproxy(t, "services", "--watch", "-o", "json"); code != 2 || !strings.Contains(stderr, "--watch goes with -o table only") {
		t.Errorf("--watch -o json: exit code %d, %s", code, stderr)
	}
}
