package metrics

import (
	"sync/atomic"
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

// numCodes counts gRPC's codes and one more, for numbers that are none of them.
const numCodes = int(codes.Unauthenticated) + 2

func codeIndex(c codes.Code) int { return int(min(c, codes.Code(numCodes-1))) }

func codeLabel(i int) string {
	if i == numCodes-1 {
		return "other"
	}
	return codes.Code(i).String()
}

// lazyCounter is a counter that has no series until it counts something.
type lazyCounter struct {
	c atomic.Pointer[prometheus.Counter]
}

func (l *lazyCounter) inc(resolve func() prometheus.Counter) {
	c := l.c.Load()
	if c == nil {
		made := resolve()
		c = &made
		l.c.Store(c)
	}
	(*c).Inc()
}

// Service is the handles of one service's series. CallStarted and CallEnded are for the call path: they take
// no lock and, once a code has been seen, allocate nothing.
type Service struct {
	m        *Metrics
	name     string
	calls    [numCodes][numOrigins]lazyCounter
	duration prometheus.Observer
	inFlight prometheus.Gauge
	retries  prometheus.Counter
}

// Service returns new handles for a service.
func (m *Metrics) Service(name string) *Service {
	return &Service{
		m: m, name: name,
		duration: m.callDuration.WithLabelValues(name),
		inFlight: m.callsInFlight.WithLabelValues(name),
		retries:  m.retries.WithLabelValues(name),
	}
}

// CallStarted counts a call that has arrived.
func (s *Service) CallStarted() { s.inFlight.Inc() }

// CallMoved takes back a CallStarted: the call turned out to be another service's.
func (s *Service) CallMoved() { s.inFlight.Dec() }

// CallRetried counts that a call is sent to another endpoint.
func (s *Service) CallRetried() { s.retries.Inc() }

// CallFailed counts a call that the proxy itself failed, for a reason; CallEnded counts its end.
func (s *Service) CallFailed(reason string) { s.m.errors.WithLabelValues(s.name, reason).Inc() }

// CallEnded counts the end of a call that CallStarted counted.
func (s *Service) CallEnded(code codes.Code, origin Origin, took time.Duration) {
	i := codeIndex(code)
	s.calls[i][origin].inc(func() prometheus.Counter {
		return s.m.calls.WithLabelValues(s.name, codeLabel(i), origin.String())
	})
	s.duration.Observe(seconds(took))
	s.inFlight.Dec()
}

// Forget ends the series. The handles must not be used afterwards.
func (s *Service) Forget() {
	for i := range s.calls {
		for o := range numOrigins {
			if s.calls[i][o].c.Load() != nil {
				s.m.calls.DeleteLabelValues(s.name, codeLabel(i), o.String())
			}
		}
	}
	s.m.callDuration.DeleteLabelValues(s.name)
	s.m.callsInFlight.DeleteLabelValues(s.name)
	s.m.retries.DeleteLabelValues(s.name)
	s.m.errors.DeletePartialMatch(prometheus.Labels{"service": s.name})
}
