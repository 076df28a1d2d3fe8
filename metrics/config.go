package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

// What may come of an attempt to reload the configuration.
const (
	reloadApplied  = "applied"
	reloadRejected = "rejected"
)

type configFamilies struct {
	reloads    *prometheus.CounterVec
	successful prometheus.Gauge
	succeeded  prometheus.Gauge
	waiting    prometheus.Gauge
}

func newConfigFamilies() configFamilies {
	return configFamilies{
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lbproxy_config_reloads_total",
			Help: "Attempts to reload the configuration, by result: applied or rejected.",
		}, []string{"result"}),
		successful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lbproxy_config_last_reload_successful",
			Help: "1 if the configuration read last is good, 0 if it was rejected and an older one stays in use.",
		}),
		succeeded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lbproxy_config_last_reload_success_timestamp_seconds",
			Help: "When a good configuration was read last, at the start or by a reload.",
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lbproxy_config_keys_waiting_for_restart",
			Help: "Keys that the configuration read last has changed and that take effect after a restart only.",
		}),
	}
}

func (f *configFamilies) register(reg prometheus.Registerer) {
	reg.MustRegister(f.reloads, f.successful, f.succeeded, f.waiting)
	// From 0 on, because a series that begins at 1 shows no increase.
	f.reloads.WithLabelValues(reloadApplied)
	f.reloads.WithLabelValues(reloadRejected)
	f.accepted()
}

func (f *configFamilies) accepted() {
	f.successful.Set(1)
	f.succeeded.SetToCurrentTime()
}

// ConfigReloaded counts a reload of a good configuration; waiting is how many of its keys need a restart.
func (m *Metrics) ConfigReloaded(waiting int) {
	m.config.reloads.WithLabelValues(reloadApplied).Inc()
	m.config.accepted()
	m.config.waiting.Set(float64(waiting))
}

// ConfigRejected counts a reload of a configuration that cannot be used.
func (m *Metrics) ConfigRejected() {
	m.config.reloads.WithLabelValues(reloadRejected).Inc()
	m.config.successful.Set(0)
}
