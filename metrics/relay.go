package metrics

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Who is at the other end of a connection.
const (
	PeerCaller  = "caller"
	PeerBackend = "backend"
)

// Cause is why a connection ended.
type Cause string

// The causes. From CauseGlitches on they are limits that a peer has exceeded.
const (
	CausePeer         Cause = "peer"              // the peer closed it
	CauseFinished     Cause = "finished"          // we closed it, in order
	CauseNetwork      Cause = "network"           // reading or writing failed
	CauseHandshake    Cause = "handshake_timeout" // the peer did not say in time what it speaks
	CauseKeepalive    Cause = "keepalive_timeout"
	CauseNotHTTP2     Cause = "not_http2"
	CauseProtocol     Cause = "protocol" // the peer broke HTTP/2
	CauseDefect       Cause = "defect"
	CauseGlitches     Cause = "glitches"
	CauseResets       Cause = "resets"
	CauseUnread       Cause = "unread"
	CauseMemory       Cause = "memory"
	CauseHeaderList   Cause = "header_list"
	CauseContinuation Cause = "continuation"
)

var causes = []Cause{
	CausePeer, CauseFinished, CauseNetwork, CauseHandshake, CauseKeepalive, CauseNotHTTP2, CauseProtocol, CauseDefect,
	CauseGlitches, CauseResets, CauseUnread, CauseMemory, CauseHeaderList, CauseContinuation,
}

// Rejection is why a request never became a call.
type Rejection string

// The rejections.
const (
	Malformed      Rejection = "malformed"
	TooLarge       Rejection = "too_large"
	TooManyStreams Rejection = "too_many_streams"
	WhileDraining  Rejection = "draining"
)

type relayFamilies struct {
	connections *prometheus.GaugeVec
	ended       *prometheus.CounterVec
	rejected    *prometheus.CounterVec
	busy        *prometheus.CounterVec
	memory      *prometheus.GaugeVec
	memoryLimit prometheus.Gauge
	defects     prometheus.Counter
}

func newRelayFamilies() relayFamilies {
	return relayFamilies{
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lbproxy_connections",
			Help: "Open connections, by who is at the other end: caller or backend. The relay's.",
		}, []string{"peer"}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lbproxy_connections_ended_total",
			Help: "Connections that have ended, by who was at the other end and why. The relay's.",
		}, []string{"peer", "cause"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lbproxy_requests_rejected_total",
			Help: "Requests that never became calls, by why: malformed, too_large, too_many_streams or draining. The relay's.",
		}, []string{"cause"}),
		busy: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lbproxy_worker_busy_seconds_total",
			Help: "Time that a worker of the relay was not waiting for something to do. On Linux.",
		}, []string{"worker"}),
		memory: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lbproxy_memory_bytes",
			Help: "Bytes that calls have a worker of the relay hold.",
		}, []string{"worker"}),
		memoryLimit: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lbproxy_memory_limit_bytes",
			Help: "What lbproxy_memory_bytes of all workers may add up to; each has an equal share.",
		}),
		defects: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lbproxy_defects_total",
			Help: "Defects in the relay that cost a connection. Each is logged; please report it.",
		}),
	}
}

// Relay is the handles of the relay's series.
type Relay struct {
	families relayFamilies
	workers  []worker
}

type worker struct {
	busy   prometheus.Counter
	memory prometheus.Gauge
	last   atomic.Int64 // what memory is
}

// NewRelay registers the series of a relay that has so many workers and that much memory.
func NewRelay(reg prometheus.Registerer, workers int, memoryLimit int64) *Relay {
	f := newRelayFamilies()
	reg.MustRegister(f.connections, f.ended, f.rejected, f.busy, f.memory, f.memoryLimit, f.defects)
	f.memoryLimit.Set(float64(memoryLimit))
	r := &Relay{families: f, workers: make([]worker, workers)}
	for _, peer := range []string{PeerCaller, PeerBackend} {
		f.connections.WithLabelValues(peer)
		startAtZero(f.ended.MustCurryWith(prometheus.Labels{"peer": peer}), causes...)
	}
	startAtZero(f.rejected, Malformed, TooLarge, TooManyStreams, WhileDraining)
	for i := range r.workers {
		label := strconv.Itoa(i)
		r.workers[i].busy = f.busy.WithLabelValues(label)
		r.workers[i].memory = f.memory.WithLabelValues(label)
	}
	return r
}

// ConnectionOpened counts a connection; peer is PeerCaller or PeerBackend.
func (r *Relay) ConnectionOpened(peer string) { r.families.connections.WithLabelValues(peer).Inc() }

// ConnectionEnded counts the end of a connection that ConnectionOpened counted.
func (r *Relay) ConnectionEnded(peer string, cause Cause) {
	r.families.connections.WithLabelValues(peer).Dec()
	r.families.ended.WithLabelValues(peer, string(cause)).Inc()
}

// RequestRejected counts a request that never became a call.
func (r *Relay) RequestRejected(why Rejection) {
	r.families.rejected.WithLabelValues(string(why)).Inc()
}

// Worked counts time that a worker was not waiting.
func (r *Relay) Worked(worker int, d time.Duration) { r.workers[worker].busy.Add(d.Seconds()) }

// SetMemory publishes what a worker holds, rounded down to 4 KiB, so that small calls do not touch the gauge.
func (r *Relay) SetMemory(worker, bytes int) {
	bytes &^= 1<<12 - 1
	w := &r.workers[worker]
	if w.last.Load() != int64(bytes) {
		w.last.Store(int64(bytes))
		w.memory.Set(float64(bytes))
	}
}

// Defect counts a defect.
func (r *Relay) Defect() { r.families.defects.Inc() }
