package metrics

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// DiscoveryCause is why a service's watch ended, or its instances are listed.
type DiscoveryCause string

// The causes. After the last two, another watch goes on where the one before was.
const (
	DiscoveryStart      DiscoveryCause = "start"
	DiscoveryCompaction DiscoveryCause = "compaction"
	DiscoveryAudit      DiscoveryCause = "audit"
	DiscoveryRestored   DiscoveryCause = "restored"
	DiscoveryListError  DiscoveryCause = "list_error"
	DiscoveryWatchError DiscoveryCause = "watch_error"
	DiscoverySilence    DiscoveryCause = "silence"
)

type discoveryFamilies struct {
	instances  *prometheus.GaugeVec
	unusable   *prometheus.GaugeVec
	relists    *prometheus.CounterVec
	resumes    *prometheus.CounterVec
	audits     prometheus.Counter
	poisoned   prometheus.Counter
	mismatched prometheus.Counter
	diverged   prometheus.Counter
	fileErrors prometheus.Counter
	fileLoaded prometheus.Gauge
}

func newDiscoveryFamilies() discoveryFamilies {
	return discoveryFamilies{
		instances: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lbproxy_discovery_instances",
			Help: "Instances registered, drained ones included.",
		}, []string{"service"}),
		unusable: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lbproxy_discovery_poisoned_entries",
			Help: "Registry entries that cannot be used now, of services that have or had one.",
		}, []string{"service"}),
		relists: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lbproxy_discovery_relists_total",
			Help: "Full lists of a service's instances, by what made them necessary.",
		}, []string{"cause"}),
		resumes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lbproxy_discovery_resumes_total",
			Help: "Watches of a service's instances that went on where one before had been lost, by what ended that.",
		}, []string{"cause"}),
		audits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lbproxy_discovery_audits_total",
			Help: "Comparisons of the watched state with the registry, by count and newest revision.",
		}),
		poisoned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lbproxy_discovery_poisoned_total",
			Help: "Registry entries that could not be used and were skipped, once per revision of each.",
		}),
		mismatched: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lbproxy_discovery_mismatched_total",
			Help: "Registry entries whose value contradicts their key (the key wins), once per revision of each.",
		}),
		diverged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lbproxy_discovery_diverged_total",
			Help: "Audits that found the watched state different from the registry; anything but 0 is a defect.",
		}),
		fileErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lbproxy_discovery_file_errors_total",
			Help: "Times that the services file turned out to be missing or wrong; what it held before stays.",
		}),
		fileLoaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lbproxy_discovery_file_last_load_successful",
			Help: "1 unless the services file was missing or wrong when it was read last.",
		}),
	}
}

func (f *discoveryFamilies) register(reg prometheus.Registerer, w *watches) {
	f.fileLoaded.Set(1)
	reg.MustRegister(f.instances, f.unusable, f.relists, f.resumes, f.audits, f.poisoned, f.mismatched, f.diverged, f.fileErrors, f.fileLoaded,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lbproxy_discovery_revision",
			Help: "Newest registry revision the proxy knows to be reflected in its pools.",
		}, w.revision),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lbproxy_discovery_staleness_seconds",
			Help: "Time since the registry last confirmed what the proxy knows, for the service where that is longest ago.",
		}, w.staleness),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lbproxy_discovery_unconfirmed_services",
			Help: "Services of which the registry cannot confirm now what the proxy knows; calls go on to the instances known last.",
		}, w.unconfirmed),
	)
}

// DiscoveryFileFailed counts a services file that cannot be used.
func (m *Metrics) DiscoveryFileFailed() {
	m.discoveryCounts.fileErrors.Inc()
	m.discoveryCounts.fileLoaded.Set(0)
}

// DiscoveryFileLoaded says that the services file could be used.
func (m *Metrics) DiscoveryFileLoaded() { m.discoveryCounts.fileLoaded.Set(1) }

// Watch is the handles of one service's discovery.
type Watch struct {
	m       *Metrics
	service string

	hasInstances atomic.Bool
	hasPoisoned  atomic.Bool
	lost         atomic.Bool
	confirmedRev atomic.Int64
	confirmedAt  atomic.Pointer[time.Time]
}

// Watch returns the handles of a watch that starts now.
func (m *Metrics) Watch(service string) *Watch {
	w := &Watch{m: m, service: service}
	now := time.Now()
	w.confirmedAt.Store(&now)
	m.watches.add(w)
	return w
}

// Relisted counts a full list.
func (w *Watch) Relisted(cause DiscoveryCause) {
	w.m.discoveryCounts.relists.WithLabelValues(string(cause)).Inc()
}

// Resumed counts a watch that goes on where one before was.
func (w *Watch) Resumed(cause DiscoveryCause) {
	w.m.discoveryCounts.resumes.WithLabelValues(string(cause)).Inc()
}

// Audited counts a comparison with the registry.
func (w *Watch) Audited() { w.m.discoveryCounts.audits.Inc() }

// Lost notes that the registry cannot confirm the known state, until Confirmed.
func (w *Watch) Lost() { w.lost.Store(true) }

// Poisoned counts a registry entry that could not be used.
func (w *Watch) Poisoned() { w.m.discoveryCounts.poisoned.Inc() }

// Mismatched counts a registry entry whose value contradicts its key.
func (w *Watch) Mismatched() { w.m.discoveryCounts.mismatched.Inc() }

// Diverged counts an audit that found the watched state wrong.
func (w *Watch) Diverged() { w.m.discoveryCounts.diverged.Inc() }

// Confirmed notes that the registry has just confirmed the known state to be that of revision.
func (w *Watch) Confirmed(revision int64) {
	now := time.Now()
	w.confirmedAt.Store(&now)
	w.confirmedRev.Store(revision)
	w.lost.Store(false)
}

// SetInstances publishes how many instances are registered. A service that never had one gets no series:
// its name may be a caller's invention.
func (w *Watch) SetInstances(n int) { w.publish(w.m.discoveryCounts.instances, &w.hasInstances, n) }

// SetPoisoned publishes how many registry entries cannot be used, once there has been one.
func (w *Watch) SetPoisoned(n int) { w.publish(w.m.discoveryCounts.unusable, &w.hasPoisoned, n) }

func (w *Watch) publish(family *prometheus.GaugeVec, has *atomic.Bool, n int) {
	if n > 0 {
		has.Store(true)
	}
	if has.Load() {
		family.WithLabelValues(w.service).Set(float64(n))
	}
}

// Forget ends the series.
func (w *Watch) Forget() {
	w.m.watches.remove(w)
	w.m.discoveryCounts.instances.DeleteLabelValues(w.service)
	w.m.discoveryCounts.unusable.DeleteLabelValues(w.service)
}

// watches is all watches that run.
type watches struct {
	mu  sync.Mutex // protects:
	all map[*Watch]struct{}
}

func (ws *watches) add(w *Watch) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.all == nil {
		ws.all = map[*Watch]struct{}{}
	}
	ws.all[w] = struct{}{}
}

func (ws *watches) remove(w *Watch) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.all, w)
}

func (ws *watches) revision() float64 {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var newest int64
	for w := range ws.all {
		newest = max(newest, w.confirmedRev.Load())
	}
	return float64(newest)
}

func (ws *watches) staleness() float64 {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var longest time.Duration
	for w := range ws.all {
		longest = max(longest, time.Since(*w.confirmedAt.Load()))
	}
	return seconds(longest)
}

func (ws *watches) unconfirmed() (n float64) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all {
		if w.lost.Load() {
			n++
		}
	}
	return n
}
