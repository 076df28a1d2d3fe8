// Package metrics holds every Prometheus series of lbproxy: its name, labels, help text and life.
//
// Families are registered once, by [New]. Whoever owns a thing that is counted (a service, an endpoint, a
// watch) asks for its handle when it appears, touches the handle's bare counters, and calls Forget when it is
// gone, which makes its series vanish. Label values come from the registry and the configuration, never from
// callers, so a caller cannot make series.
package metrics

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// durationBuckets are the bounds that gRFC A66 sets for call durations, in seconds.
var durationBuckets = []float64{
	0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008,
	0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4,
	0.5, 0.65, 0.8, 1, 2, 5, 10, 20, 50, 100,
}

// Metrics is all families. Its methods may be called from many goroutines.
type Metrics struct {
	calls           *prometheus.CounterVec
	callDuration    *prometheus.HistogramVec
	callsInFlight   *prometheus.GaugeVec
	retries         *prometheus.CounterVec
	errors          *prometheus.CounterVec
	config          configFamilies
	discoveryCounts discoveryFamilies

	endpoints endpoints
	watches   watches

	registry prometheus.Registerer
}

// New registers every family with reg. Version is the build's, for lbproxy_build_info.
func New(reg prometheus.Registerer, version string) *Metrics {
	m := &Metrics{
		registry: reg,
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lbproxy_calls_total",
			Help: "Calls ended, by gRPC status code and by who made the status: the backend or the proxy.",
		}, []string{"service", "code", "origin"}),
		callDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "lbproxy_call_duration_seconds",
			Help:    "Time from a call's arrival to its end, as the proxy saw it.",
			Buckets: durationBuckets,
		}, []string{"service"}),
		callsInFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lbproxy_calls_in_flight",
			Help: "Calls that have arrived and not ended, waiting ones included.",
		}, []string{"service"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lbproxy_call_retries_total",
			Help: "How often calls were sent to another endpoint, because the first provably did not begin them.",
		}, []string{"service"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lbproxy_errors_total",
			Help: "Calls that the proxy itself failed, by the reason it gave in the trailer lbproxy-error.",
		}, []string{"service", "reason"}),
		config:          newConfigFamilies(),
		discoveryCounts: newDiscoveryFamilies(),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "lbproxy_build_info",
		Help:        "Always 1; the labels say what is running.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	reg.MustRegister(
		m.calls, m.callDuration, m.callsInFlight,
		&m.endpoints, m.retries,
		m.errors, build,
	)
	m.discoveryCounts.register(reg, &m.watches)
	m.config.register(reg)
	return m
}

// seconds is a duration in the unit of every series of time.
func seconds(d time.Duration) float64 { return d.Seconds() }
