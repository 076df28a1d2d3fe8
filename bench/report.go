//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// report is everything that was measured, and the circumstances.
type report struct {
	Date         time.Time     `json:"date"`
	Machine      machine       `json:"machine"`
	Versions     []string      `json:"versions"`
	Rounds       int           `json:"rounds"`
	Warmup       time.Duration `json:"warmup"`
	Duration     time.Duration `json:"duration"`
	Quiet        float64       `json:"quiet_pct"`
	Measurements []measurement `json:"measurements"`

	scenarios []scenario
	proxies   []proxy
}

func newReport(o *options, versions []string) (*report, error) {
	machine, err := thisMachine()
	return &report{
		Date: time.Now().UTC(), Machine: machine, Versions: versions,
		Rounds: o.rounds, Warmup: o.warmup, Duration: o.duration, Quiet: o.quiet,
		scenarios: o.scenarios, proxies: o.proxies,
	}, err
}

// err reports invalid measurements, as the report does.
func (r *report) err() error {
	if n := len(r.invalid()); n > 0 {
		return fmt.Errorf("%d of %d measurements are invalid for errors; the report shows them", n, len(r.Measurements))
	}
	return nil
}

func (r *report) invalid() []measurement {
	return slices.DeleteFunc(slices.Clone(r.Measurements), measurement.valid)
}

// scenario returns the scenario of that name, or an empty one if it was not measured.
func (r *report) scenario(name string) scenario {
	for _, s := range r.scenarios {
		if s.Name == name {
			return s
		}
	}
	return scenario{}
}

// stat is a metric of all valid rounds of a scenario through a proxy.
func (r *report) stat(s scenario, proxy string, what metric) stat {
	var values []float64
	for _, m := range r.Measurements {
		if m.Scenario == s.Name && m.Proxy == proxy && m.valid() {
			values = append(values, what.value(s, m))
		}
	}
	return statOf(values)
}

// line is m as shown while measuring.
func (m measurement) line(s scenario) string {
	text := fmt.Sprintf("%-4s %-10s ", m.Scenario, m.Proxy)
	switch {
	case !m.valid():
		return text + fmt.Sprintf("%d errors: %s", m.Errors, m.Error)
	case s.Kind == idle:
		return text + fmt.Sprintf("%s kB per connection", number(m.IdleRSS/1e3))
	}
	if m.PeakRSS > 0 { // there is a proxy
		text += fmt.Sprintf("CPU %s µs per %s, ", number(m.cost(s)), s.Unit)
	}
	return text + fmt.Sprintf("p50 %s µs, p99 %s µs, %s %s per second, others use %.0f %%",
		number(m.P50Micros), number(m.P99Micros), number(s.units(m)/m.Seconds), s.plural(), m.OtherCPU)
}

func (r *report) writeJSON(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *report) writeMarkdown(out io.Writer) error {
	var page bytes.Buffer
	r.circumstances(&page)
	r.verdicts(&page)
	r.ratios(&page)
	for _, s := range r.scenarios {
		r.results(&page, s)
	}
	r.faults(&page)
	_, err := page.WriteTo(out)
	return err
}

func (r *report) circumstances(page *bytes.Buffer) {
	fmt.Fprintf(page, "# Benchmarks\n\n"+
		"Written by `make bench`; [bench/README.md](../bench/README.md) says what is measured and how to read it. Numbers of\n"+
		"one run can be compared with each other, not with those of another run or machine.\n\n")
	fmt.Fprintf(page, "- %s\n", r.Date.Format("2 January 2006, 15:04 MST"))
	fmt.Fprintf(page, "- %s, %d cores, %s\n", r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel)
	fmt.Fprintf(page, "- callers and backends: %s\n", r.Machine.Go)
	for _, version := range r.Versions {
		fmt.Fprintf(page, "- %s\n", version)
	}
	fmt.Fprintf(page, "- %d rounds, of each measurement %v after %v of warm-up; medians of the rounds, with their ranges\n", r.Rounds, r.Duration, r.Warmup)
	var most float64
	disturbed := 0
	for _, m := range r.Measurements {
		most = max(most, m.OtherCPU)
		if r.Quiet > 0 && m.OtherCPU > r.Quiet {
			disturbed++
		}
	}
	fmt.Fprintf(page, "- other processes used up to %.0f %% of the machine", most)
	if r.Quiet > 0 {
		fmt.Fprintf(page, ", and in %d of %d measurements more than the %g %% asked for", disturbed, len(r.Measurements), r.Quiet)
	}
	fmt.Fprintf(page, "\n\n")
}

func (r *report) verdicts(page *bytes.Buffer) {
	rows := [][]string{{"scenario", "relay's", "in ratio to", "is", "must be", "aim", ""}}
	for _, t := range targets {
		of, got, ok := t.result(r)
		if !ok {
			continue
		}
		aim := ""
		if t.aim > 0 {
			aim = fmt.Sprintf("%g", t.aim)
		}
		rows = append(rows, []string{t.scenario, t.metric.title, of, number(got), t.limit(), aim, t.verdict(got)})
	}
	if len(rows) > 1 {
		fmt.Fprintf(page, "## Targets\n\n")
		table(page, rows)
	}
}

// ratios compares the relay to everything else that was measured.
func (r *report) ratios(page *bytes.Buffer) {
	header := []string{"scenario"}
	var others []string
	for _, p := range r.proxies {
		if p.program != "" && p.Name != subject {
			others = append(others, p.Name)
			header = append(header, "CPU, "+p.Name, "p50, "+p.Name)
		}
	}
	rows := [][]string{header}
	for _, s := range r.scenarios {
		if s.Kind == idle {
			continue
		}
		row := []string{s.Name}
		for _, other := range others {
			latency := "–" // from one message of a download to the next: of no use for a comparison
			if s.Kind != download {
				latency = ratio(r.stat(s, subject, p50), r.stat(s, other, p50))
			}
			row = append(row, ratio(r.stat(s, subject, cpu), r.stat(s, other, cpu)), latency)
		}
		rows = append(rows, row)
	}
	if len(others) > 0 && len(rows) > 1 {
		fmt.Fprintf(page, "## The relay in ratio to the others\n\n")
		table(page, rows)
	}
}

func ratio(a, b stat) string {
	if a.rounds == 0 || b.rounds == 0 || b.median == 0 {
		return "–"
	}
	return number(a.median / b.median)
}

// results is the table of a scenario, with a row for every proxy.
func (r *report) results(page *bytes.Buffer, s scenario) {
	columns := []metric{idleMem}
	if s.Kind != idle {
		columns = []metric{
			{"CPU µs per " + s.Unit, true, cpu.value},
			{"p50 µs", false, p50.value},
			{"p99 µs", false, func(_ scenario, m measurement) float64 { return m.P99Micros }},
			{s.plural() + " per second", false, func(s scenario, m measurement) float64 { return s.units(m) / m.Seconds }},
			peakMem,
		}
	}
	header := []string{"through"}
	for _, column := range columns {
		header = append(header, column.title)
	}
	rows := [][]string{append(header, "valid rounds")}
	for _, p := range r.proxies {
		if s.Kind == idle && p.program == "" {
			continue
		}
		row := []string{p.Name}
		for _, column := range columns {
			if column.ofProxy && p.program == "" {
				row = append(row, "–")
			} else {
				row = append(row, r.stat(s, p.Name, column).String())
			}
		}
		rows = append(rows, append(row, fmt.Sprintf("%d of %d", r.stat(s, p.Name, cpu).rounds, r.Rounds)))
	}
	fmt.Fprintf(page, "## %s: %s\n\n", s.Name, s.What)
	table(page, rows)
}

func (r *report) faults(page *bytes.Buffer) {
	invalid := r.invalid()
	if len(invalid) == 0 {
		return
	}
	fmt.Fprintf(page, "## Invalid measurements\n\nThey had errors and are in none of the numbers above.\n\n")
	rows := [][]string{{"scenario", "through", "round", "errors", "the first"}}
	for _, m := range invalid {
		rows = append(rows, []string{m.Scenario, m.Proxy, fmt.Sprint(m.Round), fmt.Sprint(m.Errors), m.Error})
	}
	table(page, rows)
}

// table writes rows, of which the first is the header, with columns as wide as they need.
func table(page *bytes.Buffer, rows [][]string) {
	cell := strings.NewReplacer("|", `\|`, "\n", " ")
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i := range row {
			row[i] = cell.Replace(row[i])
			widths[i] = max(widths[i], len([]rune(row[i])), 3)
		}
	}
	for n, row := range rows {
		for i, text := range row {
			fmt.Fprintf(page, "| %-*s ", widths[i], text)
		}
		page.WriteString("|\n")
		if n == 0 {
			for _, width := range widths {
				page.WriteString("|" + strings.Repeat("-", width+2))
			}
			page.WriteString("|\n")
		}
	}
	page.WriteString("\n")
}
