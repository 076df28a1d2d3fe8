package configs_test

import (
	"os/exec"
	"regexp"
	"slices"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/lbproxy/lbproxy/metrics"
)

func TestAlertsUseSeriesThatExist(t *testing.T) {
	var sample struct {
		Groups []struct {
			Rules []struct {
				Alert       string            `yaml:"alert"`
				Expr        string            `yaml:"expr"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "alerts.yaml")), &sample); err != nil {
		t.Fatal(err)
	}
	known := families(t)
	used := map[string]bool{}
	for _, rule := range sample.Groups[0].Rules {
		for _, name := range regexp.MustCompile(`\blbproxy_\w+`).FindAllString(rule.Expr, -1) {
			used[name] = true
			if !slices.Contains(known, name) {
				t.Errorf("%s: there is no series %s", rule.Alert, name)
			}
		}
		if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
			t.Errorf("%s lacks its severity, summary or description", rule.Alert)
		}
	}
	for _, name := range []string{
		"lbproxy_discovery_staleness_seconds", "lbproxy_endpoint_ready", "lbproxy_discovery_poisoned_entries", "lbproxy_errors_total",
		"lbproxy_endpoint_call_seconds_total", "lbproxy_endpoint_calls_total", "lbproxy_discovery_instances",
		"lbproxy_config_last_reload_successful", "lbproxy_config_keys_waiting_for_restart", "lbproxy_discovery_file_last_load_successful",
		"lbproxy_defects_total", "lbproxy_memory_bytes", "lbproxy_connections_ended_total", "lbproxy_endpoint_waiting",
		"lbproxy_worker_busy_seconds_total",
	} {
		if !used[name] {
			t.Errorf("no alert watches %s", name)
		}
	}
}

// What each alert fires at and what it does not, by Prometheus's own tool. As a Go module it would be several times as
// large as everything else that lbproxy depends on.
func TestAlertsFire(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed; Debian has it in the package prometheus")
	}
	if out, err := exec.Command(promtool, "test", "rules", "testdata/alerts.test.yaml").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// families returns the names of all series that package metrics registers.
func families(t *testing.T) []string {
	t.Helper()
	r := &described{Registerer: prometheus.NewRegistry()}
	metrics.RegisterBuild(r, "test")
	metrics.NewConfig(r)
	metrics.NewDiscovery(r)
	metrics.NewEndpoints(r)
	metrics.NewCalls(r)
	metrics.NewRelay(r, 1, 1)
	metrics.NewDescriptors(r)
	if len(r.names) == 0 {
		t.Fatal("no series found")
	}
	return r.names
}

// described is a registry that records the names of what is registered, which may have no series yet.
type described struct {
	prometheus.Registerer
	names []string
}

func (d *described) MustRegister(collectors ...prometheus.Collector) {
	name := regexp.MustCompile(`fqName: "(\w+)"`)
	for _, c := range collectors {
		descs := make(chan *prometheus.Desc)
		go func() {
			defer close(descs)
			c.Describe(descs)
		}()
		for desc := range descs {
			if m := name.FindStringSubmatch(desc.String()); m != nil {
				d.names = append(d.names, m[1])
			}
		}
	}
	d.Registerer.MustRegister(collectors...)
}
