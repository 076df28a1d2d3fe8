//go:build linux

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const wantPage = `# Benchmarks

Written by ''make bench''; [bench/README.md](../bench/README.md) says what is measured and how to read it. Numbers of
one run can be compared with each other, not with those of another run or machine.

- 2 January 2026, 15:04 UTC
- Some CPU, 2 cores, Linux 6.1
- callers and backends: go1.26
- lbproxy v1
- 3 rounds, of each measurement 2s after 1s of warm-up; medians of the rounds, with their ranges
- other processes used up to 20 % of the machine, and in 1 of 12 measurements more than the 15 % asked for

## Targets

| scenario | relay's                | in ratio to | is   | must be | aim  |                  |
|----------|------------------------|-------------|------|---------|------|------------------|
| U64      | CPU                    | nghttpx     | 0.50 | ≤ 0.50  | 0.35 | met, not the aim |
| U64      | peak RSS, MB           |             | 30.0 | ≤ 20    | 12   | **missed**       |
| idle     | RSS per connection, kB |             | 5.00 | ≤ 12    | 6    | met              |

## The relay in ratio to the others

| scenario | CPU, nghttpx | p50, nghttpx |
|----------|--------------|--------------|
| U64      | 0.50         | 0.10         |

## U64: 64 callers on 4 connections, unary calls of 100 B

| through | CPU µs per call  | p50 µs           | p99 µs           | calls per second | peak RSS, MB     | valid rounds |
|---------|------------------|------------------|------------------|------------------|------------------|--------------|
| direct  | –                | 10.0 (10.0–10.0) | 20.0 (20.0–20.0) | 500 (500–500)    | –                | 3 of 3       |
| nghttpx | 30.0 (20.0–40.0) | 1000 (1000–1000) | 2000 (2000–2000) | 500 (500–500)    | 30.0 (30.0–30.0) | 2 of 3       |
| relay   | 15.0 (10.0–20.0) | 100 (100–100)    | 200 (200–200)    | 500 (500–500)    | 30.0 (30.0–30.0) | 3 of 3       |

## idle: 1,000 connections that have made one call each and rest

| through | RSS per connection, kB | valid rounds |
|---------|------------------------|--------------|
| nghttpx | –                      | 0 of 3       |
| relay   | 5.00 (4.00–6.00)       | 3 of 3       |

## Invalid measurements

They had errors and are in none of the numbers above.

| scenario | through | round | errors | the first    |
|----------|---------|-------|--------|--------------|
| U64      | nghttpx | 3     | 7      | no \| way on |

`

func TestReport(t *testing.T) {
	r := &report{
		Date: time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC), Machine: machine{"Some CPU", 2, "Linux 6.1", "go1.26"},
		Versions: []string{"lbproxy v1"}, Rounds: 3, Warmup: time.Second, Duration: 2 * time.Second, Quiet: 15,
	}
	r.scenarios, _ = choose("", scenarios, "U64,idle")
	r.proxies, _ = choose("", proxies, "direct,nghttpx,relay")
	for i := range 3 {
		add := func(proxy string, cpuMicros, p50 float64, rss int64) {
			r.Measurements = append(r.Measurements, measurement{
				Scenario: "U64", Proxy: proxy, Round: i + 1, Ops: 1000, Seconds: 2, ProxyCPU: cpuMicros * 1000 / 1e6,
				P50Micros: p50, P99Micros: 2 * p50, PeakRSS: rss,
			})
		}
		add("direct", 0, 10, 0)
		add("nghttpx", 20+20*float64(i), 1000, 30e6)
		add("relay", 10+5*float64(i), 100, 30e6)
		r.Measurements = append(r.Measurements, measurement{Scenario: "idle", Proxy: "relay", Round: i + 1, IdleRSS: 4000 + 1000*float64(i)})
	}
	bad := &r.Measurements[9]
	bad.Errors, bad.Error, bad.OtherCPU = 7, "no | way\non", 20
	var page strings.Builder
	if err := r.writeMarkdown(&page); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.ReplaceAll(wantPage, "''", "`"), page.String()); diff != "" {
		t.Error(diff)
	}
	if err := r.err(); err == nil {
		t.Error("no error for an invalid measurement")
	}
}

func TestTargetsNameWhatThereIs(t *testing.T) {
	for _, each := range targets {
		if _, err := choose("scenario", scenarios, each.scenario); err != nil {
			t.Error(err)
		}
		if _, err := choose("proxy", proxies, strings.Join(append(each.of, subject), ",")); err != nil {
			t.Error(err)
		}
	}
}
