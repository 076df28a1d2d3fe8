//go:build linux

package main

import "time"

// measurement is one scenario through one proxy, once.
type measurement struct {
	Scenario string    `json:"scenario"`
	Proxy    string    `json:"proxy"`
	Round    int       `json:"round"`
	At       time.Time `json:"at"`

	Seconds float64 `json:"seconds"` // how long was measured
	Ops     int64   `json:"ops"`     // calls or messages that ended in that time
	Bytes   int64   `json:"bytes"`   // of messages received in that time

	// From the start of a call to its end, from sending a message to its answer, or from one message of a
	// download to the next; in the open loop from when the call was due.
	P50Micros float64 `json:"p50_us"`
	P99Micros float64 `json:"p99_us"`

	ProxyCPU   float64   `json:"proxy_cpu_s"` // seconds of user and system time
	CallerCPU  float64   `json:"caller_cpu_s"`
	BackendCPU []float64 `json:"backend_cpu_s"` // by backend
	OtherCPU   float64   `json:"other_cpu_pct"` // percentage of the machine that neither of them used

	PeakRSS int64   `json:"peak_rss_bytes"` // of the proxy's processes, since they started
	IdleRSS float64 `json:"idle_rss_bytes"` // per idle connection

	Errors int64  `json:"errors"`          // at any time, warm-up included; one is enough to make it invalid
	Error  string `json:"error,omitempty"` // the first
}

func (m measurement) valid() bool { return m.Errors == 0 }

// cost is the proxy's CPU in µs per unit of the scenario.
func (m measurement) cost(s scenario) float64 {
	units := s.units(m)
	if units == 0 {
		return 0
	}
	return m.ProxyCPU * 1e6 / units
}
