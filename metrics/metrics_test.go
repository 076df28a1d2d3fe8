package metrics_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/metrics"
)

func everySeries(m *metrics.Metrics) (*metrics.Service, *metrics.Endpoint, *metrics.Watch) {
	s := m.Service("hello")
	s.CallStarted()
	s.CallEnded(codes.OK, metrics.FromBackend, time.Millisecond)
	e := m.Endpoint("hello", "10.0.0.7:1001")
	e.SetWeight(10)
	e.SetReady(true)
	e.CallStarted()
	e.CallEnded(codes.Code(4711), time.Millisecond, time.Now())
	w := m.Watch("hello")
	w.SetInstances(1)
	w.SetPoisoned(1)
	w.Confirmed(7)
	w.Relisted(metrics.DiscoveryStart)
	s.CallFailed("no_route")
	m.ConfigReloaded(1)
	return s, e, w
}

func TestNamesFollowPrometheusRules(t *testing.T) {
	reg := prometheus.NewRegistry()
	everySeries(metrics.New(reg, "test"))
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestSeriesVanishWithTheirOwner(t *testing.T) {
	reg := prometheus.NewRegistry()
	s, e, w := everySeries(metrics.New(reg, "test"))
	owned := []string{
		"lbproxy_calls_total", "lbproxy_call_duration_seconds", "lbproxy_calls_in_flight",
		"lbproxy_errors_total",
		"lbproxy_endpoint_calls_total", "lbproxy_endpoint_call_seconds_total", "lbproxy_endpoint_in_flight", "lbproxy_endpoint_weight",
		"lbproxy_endpoint_ready", "lbproxy_discovery_instances",
		"lbproxy_discovery_poisoned_entries",
	}
	for _, name := range owned {
		if n, _ := testutil.GatherAndCount(reg, name); n != 1 {
			t.Errorf("%s has %d series before Forget, want 1", name, n)
		}
	}
	s.Forget()
	e.Forget()
	w.Forget()
	if n, _ := testutil.GatherAndCount(reg, owned...); n != 0 {
		t.Errorf("%d series left after Forget, want 0", n)
	}
}

func TestStalenessIsOfTheLongestUnconfirmedWatch(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := metrics.New(reg, "test")
	m.Watch("never-confirmed")
	m.Watch("confirmed").Confirmed(42)
	values := map[string]float64{}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if len(f.Metric) == 1 && f.Metric[0].Gauge != nil {
			values[f.GetName()] = f.Metric[0].Gauge.GetValue()
		}
	}
	if got := values["lbproxy_discovery_revision"]; got != 42 {
		t.Errorf("revision = %v, want 42", got)
	}
	if got := values["lbproxy_discovery_staleness_seconds"]; got <= 0 {
		t.Errorf("staleness = %v, want > 0", got)
	}
}

func TestCountingACallAllocatesNothing(t *testing.T) {
	m := metrics.New(prometheus.NewRegistry(), "test")
	s, e := m.Service("hello"), m.Endpoint("hello", "10.0.0.7:1001")
	call := func() {
		s.CallStarted()
		e.CallStarted()
		e.CallEnded(codes.OK, time.Millisecond, time.Now())
		s.CallEnded(codes.OK, metrics.FromBackend, time.Millisecond)
	}
	call()
	if n := testing.AllocsPerRun(100, call); n != 0 {
		t.Errorf("%v allocations per call, want 0", n)
	}
}
