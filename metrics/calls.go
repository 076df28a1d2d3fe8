package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// Origin is who made a call's status.
type Origin uint8

// The origins.
const (
	FromBackend Origin = iota
	FromProxy
	numOrigins
)

func (o Origin) String() string {
	if o == FromProxy {
		return "proxy"
	}
	return "backend"
}

// durationBuckets are the bounds that gRFC A66 sets for call durations, in seconds.
var durationBuckets = []float64{
	0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008,
	0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4,
	0.5, 0.65, 0.8, 1, 2, 5, 10, 20, 50, 100,
}

// Calls is the families of calls as callers see them.
type Calls struct {
	ended    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight *prometheus.GaugeVec
	retries  *prometheus.CounterVec
	errors   *prometheus.CounterVec
}

// NewCalls registers the families of calls.
func NewCalls(reg prometheus.Registerer) *Calls {
	c := &Calls{
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lbproxy_calls_total",
			Help: "Calls ended, by gRPC status code and by who made the status: the backend or the proxy.",
		}, []string{"service", "code", "origin"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "lbproxy_call_duration_seconds",
			Help:    "Time from a call's arrival to its end, as the proxy saw it.",
			Buckets: durationBuckets,
		}, []string{"service"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
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
	}
	reg.MustRegister(c.ended, c.duration, c.inFlight, c.retries, c.errors)
	return c
}

// Service is the handles of one service's series. CallStarted and CallEnded are for the call path: they take
// no lock and, once a code has been seen, allocate nothing.
type Service struct {
	of       *Calls
	name     string
	ended    [numCodes][numOrigins]lazyCounter
	duration prometheus.Observer
	inFlight prometheus.Gauge
	retries  prometheus.Counter
}

// Service returns new handles for a service.
func (c *Calls) Service(name string) *Service {
	return &Service{
		of: c, name: name,
		duration: c.duration.WithLabelValues(name),
		inFlight: c.inFlight.WithLabelValues(name),
		retries:  c.retries.WithLabelValues(name),
	}
}

// CallStarted counts a call that has arrived.
func (s *Service) CallStarted() { s.inFlight.Inc() }

// CallMoved takes back a CallStarted: the call turned out to be another service's.
func (s *Service) CallMoved() { s.inFlight.Dec() }

// CallRetried counts that a call is sent to another endpoint.
func (s *Service) CallRetried() { s.retries.Inc() }

// CallFailed counts a call that the proxy itself failed, for a reason; CallEnded counts its end.
func (s *Service) CallFailed(reason string) { s.of.errors.WithLabelValues(s.name, reason).Inc() }

// CallEnded counts the end of a call that CallStarted counted.
func (s *Service) CallEnded(code codes.Code, origin Origin, took time.Duration) {
	i := codeIndex(code)
	s.ended[i][origin].inc(func() prometheus.Counter {
		return s.of.ended.WithLabelValues(s.name, codeLabel(i), origin.String())
	})
	s.duration.Observe(seconds(took))
	s.inFlight.Dec()
}

// Forget ends the series. The handles must not be used afterwards.
func (s *Service) Forget() {
	for i := range s.ended {
		for o := range numOrigins {
			if s.ended[i][o].c.Load() != nil {
				s.of.ended.DeleteLabelValues(s.name, codeLabel(i), o.String())
			}
		}
	}
	s.of.duration.DeleteLabelValues(s.name)
	s.of.inFlight.DeleteLabelValues(s.name)
	s.of.retries.DeleteLabelValues(s.name)
	s.of.errors.DeletePartialMatch(prometheus.Labels{"service": s.name})
}
