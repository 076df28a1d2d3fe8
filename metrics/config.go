package metrics

import "github.com/prometheus/client_golang/prometheus"

// What may come of an attempt to reload the configuration.
const (
	reloadApplied  = "applied"
	reloadRejected = "rejected"
)

// Config is the series of the configuration's reloads.
type Config struct {
	reloads    *prometheus.CounterVec
	successful prometheus.Gauge
	succeeded  prometheus.Gauge
	waiting    prometheus.Gauge
}

// NewConfig registers the series of the configuration, which has just been read and is good.
func NewConfig(reg prometheus.Registerer) *Config {
	c := &Config{
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
	reg.MustRegister(c.reloads, c.successful, c.succeeded, c.waiting)
	startAtZero(c.reloads, reloadApplied, reloadRejected)
	c.accepted()
	return c
}

func (c *Config) accepted() {
	c.successful.Set(1)
	c.succeeded.SetToCurrentTime()
}

// Reloaded counts a reload of a good configuration; waiting is how many of its keys need a restart.
func (c *Config) Reloaded(waiting int) {
	c.reloads.WithLabelValues(reloadApplied).Inc()
	c.accepted()
	c.waiting.Set(float64(waiting))
}

// Rejected counts a reload of a configuration that cannot be used.
func (c *Config) Rejected() {
	c.reloads.WithLabelValues(reloadRejected).Inc()
	c.successful.Set(0)
}
