//go:build linux

package main

import "testing"

func TestStat(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   string
	}{
		{nil, "–"},
		{[]float64{7}, "7.00"},
		{[]float64{3, 1, 2}, "2.00 (1.00–3.00)"},
		{[]float64{40, 10, 30, 20}, "25.0 (10.0–40.0)"},
		{[]float64{1234.5, 99.94, 0.123}, "99.9 (0.12–1234)"},
	} {
		if got := statOf(c.values).String(); got != c.want {
			t.Errorf("%v: got %q, want %q", c.values, got, c.want)
		}
	}
}
