// Package metrics holds every Prometheus series of lbproxy: its name, labels, help text and life.
//
// Whoever owns what is counted has one constructor here, which registers its families and no others: [NewCalls],
// [NewEndpoints], [NewDiscovery], [NewRelay], [NewDescriptors], [NewConfig]. The owner asks for a handle when a thing
// (a service, an endpoint, a watch) appears, touches the handle's bare counters, and calls Forget when it is gone,
// which makes its series vanish. Label values come from the registry and the configuration, never from callers, so a
// caller cannot make series.
package metrics

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// RegisterBuild registers the series that says what is running.
func RegisterBuild(reg prometheus.Registerer, version string) {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "lbproxy_build_info",
		Help:        "Always 1; the labels say what is running.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	reg.MustRegister(build)
}

// seconds is a duration in the unit of every series of time.
func seconds(d time.Duration) float64 { return d.Seconds() }

// startAtZero gives a counter its series for each value of its label, because one that begins at 1 shows no increase.
func startAtZero[Label ~string](counter *prometheus.CounterVec, values ...Label) {
	for _, v := range values {
		counter.WithLabelValues(string(v))
	}
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
