package metrics

import "github.com/prometheus/client_golang/prometheus"

// Shortage is what the lack of file descriptors has led to.
type Shortage string

// The shortages.
const (
	ShortageAccept     Shortage = "accept"      // accepting a caller failed, for now
	ShortageCaller     Shortage = "caller"      // a caller was turned away
	ShortageIdleCaller Shortage = "idle_caller" // an idle caller was asked to leave
)

// Descriptors is the series of file descriptors.
type Descriptors struct {
	without   prometheus.Gauge
	shortages *prometheus.CounterVec
}

// NewDescriptors registers the series of file descriptors.
func NewDescriptors(reg prometheus.Registerer) *Descriptors {
	d := &Descriptors{
		without: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lbproxy_endpoints_without_descriptor",
			Help: "Endpoints that are not connected because no file descriptor is left for it.",
		}),
		shortages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lbproxy_descriptor_shortages_total",
			Help: "What the lack of file descriptors has led to: accept (accepting a caller failed and is tried again), caller (one was turned away), idle_caller (one was asked to leave).",
		}, []string{"cause"}),
	}
	reg.MustRegister(d.without, d.shortages)
	startAtZero(d.shortages, ShortageAccept, ShortageCaller, ShortageIdleCaller)
	return d
}

// Short counts n times what a shortage has led to.
func (d *Descriptors) Short(of Shortage, n int) {
	d.shortages.WithLabelValues(string(of)).Add(float64(n))
}

// EndpointWithout counts an endpoint that has no descriptor, until EndpointWithoutEnded.
func (d *Descriptors) EndpointWithout() { d.without.Inc() }

// EndpointWithoutEnded takes back an EndpointWithout.
func (d *Descriptors) EndpointWithoutEnded() { d.without.Dec() }
