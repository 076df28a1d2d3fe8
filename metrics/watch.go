package metrics

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Watch is the handles of one service's discovery.
type Watch struct {
	of      *Discovery
	service string

	hasInstances atomic.Bool
	hasPoisoned  atomic.Bool
	lost         atomic.Bool
	confirmedRev atomic.Int64
	confirmedAt  atomic.Pointer[time.Time]
}

// Watch returns the handles of a watch that starts now.
func (d *Discovery) Watch(service string) *Watch {
	w := &Watch{of: d, service: service}
	now := time.Now()
	w.confirmedAt.Store(&now)
	d.watches.add(w)
	return w
}

// Lost notes that the registry cannot confirm the known state, until Confirmed.
func (w *Watch) Lost() { w.lost.Store(true) }

// Poisoned counts a registry entry that could not be used.
func (w *Watch) Poisoned() { w.of.poisoned.Inc() }

// Mismatched counts a registry entry whose value contradicts its key.
func (w *Watch) Mismatched() { w.of.mismatched.Inc() }

// Confirmed notes that the registry has just confirmed the known state to be that of revision.
func (w *Watch) Confirmed(revision int64) {
	now := time.Now()
	w.confirmedAt.Store(&now)
	w.confirmedRev.Store(revision)
	w.lost.Store(false)
}

// SetInstances publishes how many instances are registered. A service that never had one gets no series:
// its name may be a caller's invention.
func (w *Watch) SetInstances(n int) { w.publish(w.of.instances, &w.hasInstances, n) }

// SetPoisoned publishes how many registry entries cannot be used, once there has been one.
func (w *Watch) SetPoisoned(n int) { w.publish(w.of.unusable, &w.hasPoisoned, n) }

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
	w.of.watches.remove(w)
	w.of.instances.DeleteLabelValues(w.service)
	w.of.unusable.DeleteLabelValues(w.service)
}

// watches is all watches that run.
type watches struct {
	mu  sync.Mutex // protects:
	all map[*Watch]struct{}
}

func (ws *watches) add(w *Watch) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
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
