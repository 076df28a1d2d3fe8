//go:build linux

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// target is what the relay must achieve: a ratio to the best of some others, or an amount.
type target struct {
	scenario string
	metric   metric
	of       []string // ratio to the best of these; none for an amount
	must     float64  // at most
	aim      float64  // at most; 0 for none beyond must
	below    bool     // must is itself too much
}

// metric is one number of a measurement.
type metric struct {
	title   string // with its unit
	ofProxy bool   // there is none where there is no proxy
	value   func(scenario, measurement) float64
}

var (
	cpu     = metric{"CPU", true, func(s scenario, m measurement) float64 { return m.cost(s) }}
	p50     = metric{"p50", false, func(_ scenario, m measurement) float64 { return m.P50Micros }}
	peakMem = metric{"peak RSS, MB", true, func(_ scenario, m measurement) float64 { return float64(m.PeakRSS) / 1e6 }}
	idleMem = metric{"RSS per connection, kB", true, func(_ scenario, m measurement) float64 { return m.IdleRSS / 1e3 }}
)

const subject = "relay"

var peers = []string{"nginx", "haproxy", "nghttpx"}

var targets = []target{
	{scenario: "U64", metric: cpu, of: []string{"nghttpx"}, must: 0.50, aim: 0.35},
	{scenario: "U64", metric: cpu, of: []string{"haproxy"}, must: 0.40},
	{scenario: "U64", metric: cpu, of: []string{"grpc-proxy"}, must: 0.15},
	{scenario: "U1", metric: cpu, of: peers, must: 0.80, aim: 0.50},
	{scenario: "U1", metric: p50, of: peers, must: 1.00, aim: 0.75, below: true},
	{scenario: "R500", metric: cpu, of: peers, must: 0.90, aim: 0.60},
	{scenario: "PP", metric: cpu, of: peers, must: 0.55, aim: 0.35},
	{scenario: "DL", metric: cpu, of: []string{"nginx"}, must: 1.15, aim: 0.80},
	{scenario: "DL", metric: cpu, of: []string{"haproxy"}, must: 0.60},
	{scenario: "U64", metric: peakMem, must: 20, aim: 12},
	{scenario: "idle", metric: idleMem, must: 12, aim: 6},
}

// limit is t's must, for people.
func (t target) limit() string {
	if t.below {
		return fmt.Sprintf("< %.2f", t.must)
	}
	if t.of == nil {
		return fmt.Sprintf("≤ %g", t.must)
	}
	return fmt.Sprintf("≤ %.2f", t.must)
}

// verdict says how got compares to the target.
func (t target) verdict(got float64) string {
	switch {
	case got > t.must || t.below && got == t.must:
		return "**missed**"
	case t.aim > 0 && got > t.aim:
		return "met, not the aim"
	}
	return "met"
}

// result is t's outcome: what it was compared to, and the ratio or amount. It is false if something that it needs was
// not measured.
func (t target) result(r *report) (of string, got float64, ok bool) {
	s := r.scenario(t.scenario)
	own := r.stat(s, subject, t.metric)
	if own.rounds == 0 {
		return "", 0, false
	}
	if t.of == nil {
		return "", own.median, true
	}
	for _, name := range t.of {
		if r.stat(s, name, t.metric).rounds == 0 {
			return "", 0, false // the best of fewer would be another target
		}
	}
	best := slices.MinFunc(t.of, func(a, b string) int {
		return cmp.Compare(r.stat(s, a, t.metric).median, r.stat(s, b, t.metric).median)
	})
	of = best
	if len(t.of) > 1 {
		of = fmt.Sprintf("%s, the best of %s", best, strings.Join(t.of, ", "))
	}
	return of, own.median / r.stat(s, best, t.metric).median, true
}
