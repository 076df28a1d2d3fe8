//go:build linux

package main

import (
	"fmt"
	"slices"
)

// stat summarizes the valid rounds of a measurement.
type stat struct {
	median, least, most float64
	rounds              int // 0 for none
}

func statOf(values []float64) stat {
	n := len(values)
	if n == 0 {
		return stat{}
	}
	sorted := slices.Sorted(slices.Values(values))
	return stat{median: (sorted[(n-1)/2] + sorted[n/2]) / 2, least: sorted[0], most: sorted[n-1], rounds: n}
}

// String is the median, with the range where there is one.
func (s stat) String() string {
	switch s.rounds {
	case 0:
		return "–"
	case 1:
		return number(s.median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median), number(s.least), number(s.most))
}

// number writes v to about three digits.
func number(v float64) string {
	switch {
	case v >= 99.95 || v <= -99.95:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995 || v <= -9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
