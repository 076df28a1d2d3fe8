//go:build linux

package main

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latencies are kept from 100 ns to a minute, to three digits.
const (
	shortest = 100
	longest  = int64(time.Minute)
)

// tally is what one caller has seen.
type tally struct {
	phase *phase

	// mu protects:
	mu      sync.Mutex
	latency *hdrhistogram.Histogram // ns
	bytes   int64
	errors  int64
	first   error
}

func newTally(p *phase) *tally {
	return &tally{phase: p, latency: hdrhistogram.New(shortest, longest, 3)}
}

// done counts a call or message that took that long, if the phase counts.
func (t *tally) done(took time.Duration, bytes int) {
	if !t.phase.measuring.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.latency.RecordValue(min(int64(took), longest)) // fails only for what is longer
	t.bytes += int64(bytes)
}

func (t *tally) failed(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.errors++
	if t.first == nil {
		t.first = err
	}
}

// add puts what all callers have seen into m.
func (m *measurement) add(tallies []*tally) {
	all := hdrhistogram.New(shortest, longest, 3)
	for _, t := range tallies {
		t.mu.Lock()
		all.Merge(t.latency)
		m.Bytes += t.bytes
		m.Errors += t.errors
		if t.first != nil && m.Error == "" {
			m.Error = t.first.Error()
		}
		t.mu.Unlock()
	}
	m.Ops = all.TotalCount()
	m.P50Micros = float64(all.ValueAtQuantile(50)) / 1e3
	m.P99Micros = float64(all.ValueAtQuantile(99)) / 1e3
}
