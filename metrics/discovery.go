package metrics

import "github.com/prometheus/client_golang/prometheus"

// Discovery is the families of what is known of services' instances, whatever the source.
type Discovery struct {
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
	watches    watches
}

// NewDiscovery registers the families of discovery. Sources may share them.
func NewDiscovery(reg prometheus.Registerer) *Discovery {
	d := &Discovery{
		watches: watches{all: map[*Watch]struct{}{}},
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
	d.fileLoaded.Set(1)
	reg.MustRegister(
		d.instances, d.unusable, d.relists, d.resumes, d.audits, d.poisoned, d.mismatched, d.diverged, d.fileErrors, d.fileLoaded,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lbproxy_discovery_revision",
			Help: "Newest registry revision the proxy knows to be reflected in its pools.",
		}, d.watches.revision),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lbproxy_discovery_staleness_seconds",
			Help: "Time since the registry last confirmed what the proxy knows, for the service where that is longest ago.",
		}, d.watches.staleness),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lbproxy_discovery_unconfirmed_services",
			Help: "Services of which the registry cannot confirm now what the proxy knows; calls go on to the instances known last.",
		}, d.watches.unconfirmed),
	)
	return d
}

// FileFailed counts a services file that cannot be used.
func (d *Discovery) FileFailed() {
	d.fileErrors.Inc()
	d.fileLoaded.Set(0)
}

// FileLoaded says that the services file could be used.
func (d *Discovery) FileLoaded() { d.fileLoaded.Set(1) }

// Relisted counts a full list.
func (d *Discovery) Relisted(cause string) {
	d.relists.WithLabelValues(cause).Inc()
}

// Resumed counts a watch that goes on where one before was.
func (d *Discovery) Resumed(cause string) {
	d.resumes.WithLabelValues(cause).Inc()
}

// Audited counts a comparison with the registry.
func (d *Discovery) Audited() { d.audits.Inc() }

// Diverged counts an audit that found the watched state wrong.
func (d *Discovery) Diverged() { d.diverged.Inc() }
