package metrics

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Endpoint is the numbers of one endpoint's series. Its methods only write those, on the call path, too: the
// series are made of them for each scrape.
type Endpoint struct {
	// Immutable:
	of            *Endpoints
	service, addr string
	joined        time.Time

	weight   atomic.Int64
	ready    atomic.Bool
	inFlight atomic.Int64
	waiting  atomic.Int64
	calls    [numCodes]atomic.Uint64
	took     atomic.Int64 // by all calls, in nanoseconds
	recent   RecentCalls
}

// CallStarted counts a call sent to the endpoint.
func (e *Endpoint) CallStarted() { e.inFlight.Add(1) }

// CallEnded counts the end, now, of a call that CallStarted counted, and what it took since it was sent.
func (e *Endpoint) CallEnded(code codes.Code, took time.Duration, now time.Time) {
	e.calls[codeIndex(code)].Add(1)
	e.took.Add(int64(took))
	e.recent.Ended(code, took, now)
	e.inFlight.Add(-1)
}

// Recent is what became of the calls of the last minute; nil if there were none.
func (e *Endpoint) Recent(now time.Time) *Recent { return e.recent.Read(now) }

// CallReturned takes back a CallStarted: the endpoint never got the call.
func (e *Endpoint) CallReturned() { e.inFlight.Add(-1) }

// CallQueued counts a call that waits for a stream, until CallUnqueued.
func (e *Endpoint) CallQueued() { e.waiting.Add(1) }

// CallUnqueued takes back a CallQueued.
func (e *Endpoint) CallUnqueued() { e.waiting.Add(-1) }

// SetWeight publishes the weight the endpoint is registered with.
func (e *Endpoint) SetWeight(weight int) { e.weight.Store(int64(weight)) }

// SetReady publishes whether the proxy is connected to the endpoint.
func (e *Endpoint) SetReady(ready bool) { e.ready.Store(ready) }

// Forget ends the series.
func (e *Endpoint) Forget() { e.of.remove(e) }

// Endpoints is the collector of all endpoints' series. Ten thousand endpoints join in one moment, and a scrape
// comes every few seconds, so it is the scrape that pays for the series.
type Endpoints struct {
	mu  sync.Mutex // protects:
	all map[endpointLabels]*Endpoint
}

type endpointLabels struct{ service, addr string }

// NewEndpoints registers the families of endpoints.
func NewEndpoints(reg prometheus.Registerer) *Endpoints {
	es := &Endpoints{all: map[endpointLabels]*Endpoint{}}
	reg.MustRegister(es)
	return es
}

// Join returns the numbers of an endpoint that joins, which are published until Forget.
func (es *Endpoints) Join(service, addr string) *Endpoint {
	e := &Endpoint{of: es, service: service, addr: addr, joined: time.Now()}
	es.mu.Lock()
	defer es.mu.Unlock()
	es.all[e.labels()] = e
	return e
}

func (e *Endpoint) labels() endpointLabels { return endpointLabels{e.service, e.addr} }

// remove leaves alone an endpoint that has taken e's place: labels must stay unique, or no scrape succeeds.
func (es *Endpoints) remove(e *Endpoint) {
	es.mu.Lock()
	defer es.mu.Unlock()
	if es.all[e.labels()] == e {
		delete(es.all, e.labels())
	}
}

func (es *Endpoints) list() []*Endpoint {
	es.mu.Lock()
	defer es.mu.Unlock()
	list := make([]*Endpoint, 0, len(es.all))
	for _, e := range es.all {
		list = append(list, e)
	}
	return list
}

var (
	endpointCalls = prometheus.NewDesc("lbproxy_endpoint_calls_total",
		"Calls ended that had been sent to an endpoint, by gRPC status code.", []string{"service", "endpoint", "code"}, nil)
	endpointSeconds = prometheus.NewDesc("lbproxy_endpoint_call_seconds_total",
		"Time that the calls ended took at an endpoint, from when they were sent to it.", []string{"service", "endpoint"}, nil)
	endpointLoad = prometheus.NewDesc("lbproxy_endpoint_in_flight",
		"Calls running at an endpoint.", []string{"service", "endpoint"}, nil)
	endpointWeight = prometheus.NewDesc("lbproxy_endpoint_weight",
		"Weight an endpoint is registered with; 0 gets no new calls.", []string{"service", "endpoint"}, nil)
	endpointReady = prometheus.NewDesc("lbproxy_endpoint_ready",
		"1 if the proxy is connected to an endpoint, 0 if not.", []string{"service", "endpoint"}, nil)
	endpointQueue = prometheus.NewDesc("lbproxy_endpoint_waiting",
		"Calls for an endpoint that wait for a stream, because its backend allows no more at a time.", []string{"service", "endpoint"}, nil)
)

// Describe implements [prometheus.Collector].
func (es *Endpoints) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{endpointCalls, endpointSeconds, endpointLoad, endpointWeight, endpointReady, endpointQueue} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (es *Endpoints) Collect(out chan<- prometheus.Metric) {
	for _, e := range es.list() {
		e.collect(out)
	}
}

func (e *Endpoint) collect(out chan<- prometheus.Metric) {
	labels := []*dto.LabelPair{label("endpoint", e.addr), label("service", e.service)} // sorted, as Prometheus demands
	gauge := func(desc *prometheus.Desc, value int64) {
		out <- &sample{desc: desc, labels: labels, gauge: &dto.Gauge{Value: new(float64(value))}}
	}
	gauge(endpointWeight, e.weight.Load())
	gauge(endpointReady, oneIf(e.ready.Load()))
	gauge(endpointLoad, e.inFlight.Load())
	gauge(endpointQueue, e.waiting.Load())
	counter := func(desc *prometheus.Desc, value float64, labels []*dto.LabelPair) {
		out <- &sample{desc: desc, labels: labels, counter: &dto.Counter{Value: &value, CreatedTimestamp: timestamppb.New(e.joined)}}
	}
	called := false
	for i := range e.calls {
		if n := e.calls[i].Load(); n > 0 {
			counter(endpointCalls, float64(n), append([]*dto.LabelPair{label("code", codeLabel(i))}, labels...))
			called = true
		}
	}
	if called {
		counter(endpointSeconds, seconds(time.Duration(e.took.Load())), labels)
	}
}

func label(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

func oneIf(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// sample is one series at the moment of a scrape. Those of an endpoint share their labels, which Prometheus's
// own constant metrics would make for each.
type sample struct {
	desc    *prometheus.Desc
	labels  []*dto.LabelPair
	gauge   *dto.Gauge
	counter *dto.Counter
}

// Desc implements [prometheus.Metric].
func (s *sample) Desc() *prometheus.Desc { return s.desc }

// Write implements [prometheus.Metric].
func (s *sample) Write(m *dto.Metric) error {
	m.Label, m.Gauge, m.Counter = s.labels, s.gauge, s.counter
	return nil
}
