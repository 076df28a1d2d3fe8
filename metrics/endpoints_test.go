package metrics_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/metrics"
)

var endpointFamilies = []string{
	"lbproxy_endpoint_calls_total", "lbproxy_endpoint_call_seconds_total", "lbproxy_endpoint_in_flight", "lbproxy_endpoint_ready",
	"lbproxy_endpoint_waiting", "lbproxy_endpoint_weight",
}

func TestAScrapeTellsWhatEndpointsCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := metrics.NewEndpoints(reg)
	busy, idle := m.Join("hello", "10.0.0.7:1001"), m.Join("user", "10.0.0.7:1001")
	busy.SetWeight(10)
	busy.SetReady(true)
	for range 5 {
		busy.CallStarted()
	}
	busy.CallEnded(codes.OK, time.Second, time.Now())
	busy.CallEnded(codes.Unavailable, 2*time.Second, time.Now())
	busy.CallEnded(codes.Code(4711), time.Second/4, time.Now())
	busy.CallReturned()
	busy.CallQueued()
	idle.SetWeight(1)
	idle.SetReady(true)
	idle.SetReady(false)
	idle.CallQueued()
	idle.CallUnqueued()
	want := `
# HELP lbproxy_endpoint_calls_total Calls ended that had been sent to an endpoint, by gRPC status code.
# TYPE lbproxy_endpoint_calls_total counter
lbproxy_endpoint_calls_total{code="OK",endpoint="10.0.0.7:1001",service="hello"} 1
lbproxy_endpoint_calls_total{code="Unavailable",endpoint="10.0.0.7:1001",service="hello"} 1
lbproxy_endpoint_calls_total{code="other",endpoint="10.0.0.7:1001",service="hello"} 1
# HELP lbproxy_endpoint_call_seconds_total Time that the calls ended took at an endpoint, from when they were sent to it.
# TYPE lbproxy_endpoint_call_seconds_total counter
lbproxy_endpoint_call_seconds_total{endpoint="10.0.0.7:1001",service="hello"} 3.25
# HELP lbproxy_endpoint_in_flight Calls running at an endpoint.
# TYPE lbproxy_endpoint_in_flight gauge
lbproxy_endpoint_in_flight{endpoint="10.0.0.7:1001",service="hello"} 1
lbproxy_endpoint_in_flight{endpoint="10.0.0.7:1001",service="user"} 0
# HELP lbproxy_endpoint_ready 1 if the proxy is connected to an endpoint, 0 if not.
# TYPE lbproxy_endpoint_ready gauge
lbproxy_endpoint_ready{endpoint="10.0.0.7:1001",service="hello"} 1
lbproxy_endpoint_ready{endpoint="10.0.0.7:1001",service="user"} 0
# HELP lbproxy_endpoint_waiting Calls for an endpoint that wait for a stream, because its backend allows no more at a time.
# TYPE lbproxy_endpoint_waiting gauge
lbproxy_endpoint_waiting{endpoint="10.0.0.7:1001",service="hello"} 1
lbproxy_endpoint_waiting{endpoint="10.0.0.7:1001",service="user"} 0
# HELP lbproxy_endpoint_weight Weight an endpoint is registered with; 0 gets no new calls.
# TYPE lbproxy_endpoint_weight gauge
lbproxy_endpoint_weight{endpoint="10.0.0.7:1001",service="hello"} 10
lbproxy_endpoint_weight{endpoint="10.0.0.7:1001",service="user"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), endpointFamilies...); err != nil {
		t.Error(err)
	}
}

// A scrape fails as a whole if two series have the same labels.
func TestAnEndpointTakesThePlaceOfAnotherWithItsLabels(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := metrics.NewEndpoints(reg)
	old := m.Join("hello", "10.0.0.7:1001")
	m.Join("hello", "10.0.0.7:1001").SetWeight(7)
	old.Forget()
	want := `
# HELP lbproxy_endpoint_weight Weight an endpoint is registered with; 0 gets no new calls.
# TYPE lbproxy_endpoint_weight gauge
lbproxy_endpoint_weight{endpoint="10.0.0.7:1001",service="hello"} 7
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "lbproxy_endpoint_weight"); err != nil {
		t.Error(err)
	}
}

// Thousands join in one moment, so what an endpoint costs then is its memory and no series.
func TestAnEndpointJoinsWithoutSeries(t *testing.T) {
	m := metrics.NewEndpoints(prometheus.NewRegistry())
	if n := testing.AllocsPerRun(100, func() { m.Join("hello", "10.0.0.7:1001").SetWeight(1) }); n > 1 {
		t.Errorf("%v allocations, want one", n)
	}
}

func BenchmarkEndpointJoins(b *testing.B) {
	m := metrics.NewEndpoints(prometheus.NewRegistry())
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		e := m.Join("hello", fmt.Sprint(i))
		e.SetWeight(10)
		e.SetReady(false)
	}
}

func BenchmarkEndpointCounts(b *testing.B) {
	e := metrics.NewEndpoints(prometheus.NewRegistry()).Join("hello", "10.0.0.7:1001")
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		e.CallStarted()
		e.CallEnded(codes.OK, 3*time.Millisecond, now)
	}
}

func BenchmarkScrape(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			reg := prometheus.NewRegistry()
			m, now := metrics.NewEndpoints(reg), time.Now()
			for i := range n {
				e := m.Join("hello", fmt.Sprint(i))
				e.CallStarted()
				e.CallEnded(codes.OK, 3*time.Millisecond, now)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := reg.Gather(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
