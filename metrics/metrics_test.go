package metrics_test

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/metrics"
)

func everySeries(reg prometheus.Registerer) (*metrics.Service, *metrics.Endpoint, *metrics.Watch) {
	s := metrics.NewCalls(reg).Service("hello")
	s.CallStarted()
	s.CallEnded(codes.OK, metrics.FromBackend, time.Millisecond)
	e := metrics.NewEndpoints(reg).Join("hello", "10.0.0.7:1001")
	e.SetWeight(10)
	e.SetReady(true)
	e.CallStarted()
	e.CallEnded(codes.Code(4711), time.Millisecond, time.Now())
	d := metrics.NewDiscovery(reg)
	d.Relisted("start")
	w := d.Watch("hello")
	w.SetInstances(1)
	w.SetPoisoned(1)
	w.Confirmed(7)
	s.CallFailed("no_route")
	metrics.NewConfig(reg).Reloaded(1)
	metrics.NewDescriptors(reg)
	metrics.NewRelay(reg, 1, 1)
	metrics.RegisterBuild(reg, "test")
	return s, e, w
}

func TestNamesFollowPrometheusRules(t *testing.T) {
	reg := prometheus.NewRegistry()
	everySeries(reg)
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
	s, e, w := everySeries(reg)
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

// A Go caller that discovers without a proxy publishes no series of one.
func TestDiscoveryRegistersNothingElse(t *testing.T) {
	reg := prometheus.NewRegistry()
	metrics.NewDiscovery(reg)
	families, err := reg.Gather()
	if err != nil || len(families) == 0 {
		t.Fatalf("%d families, %v", len(families), err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "lbproxy_discovery_") {
			t.Errorf("%s is registered", f.GetName())
		}
	}
}

func TestStalenessIsOfTheLongestUnconfirmedWatch(t *testing.T) {
	reg := prometheus.NewRegistry()
	d := metrics.NewDiscovery(reg)
	d.Watch("never-confirmed")
	d.Watch("confirmed").Confirmed(42)
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
	s := metrics.NewCalls(prometheus.NewRegistry()).Service("hello")
	e := metrics.NewEndpoints(prometheus.NewRegistry()).Join("hello", "10.0.0.7:1001")
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
