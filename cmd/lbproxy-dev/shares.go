package main

import (
	"fmt"
	"math"
	"slices"

	"github.com/lbproxy/lbproxy/picker"
)

// A row is an instance in a table. Shares are fractions of 1.
type row struct {
	Addr          string  `json:"addr"`
	Weight        int     `json:"weight"`
	State         string  `json:"state"`
	Calls         uint64  `json:"calls"`
	Share         float64 `json:"share"`
	ExpectedShare float64 `json:"expected_share"`
}

// newRows makes a row for each instance, with the calls that it got and its expected share of all calls.
func newRows(policy string, instances []picker.EndpointStatus, calls func(picker.EndpointStatus) uint64) []row {
	var rows []row
	var total, rotation uint64
	for _, in := range instances {
		n := calls(in)
		rows = append(rows, row{Addr: in.Addr, Weight: in.Weight, State: in.State, Calls: n})
		total += n
		rotation += turns(policy, in.Weight, in.State)
	}
	for i := range rows {
		r := &rows[i]
		r.Share = ratio(r.Calls, total)
		r.ExpectedShare = ratio(turns(policy, r.Weight, r.State), rotation)
	}
	return rows
}

func ratio(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// turns is how many calls an instance gets in a rotation or, without rotations, in the long run: its weight in
// proportion to the others'.
func turns(policy string, weight int, state string) uint64 {
	switch {
	case state != picker.Ready.String():
		return 0
	case policy == picker.RoundRobin:
		return uint64(min(weight, 1))
	}
	return uint64(weight)
}

// mismatches names the rows whose calls differ from what the policy promises for their weights, and by how much. It is
// empty if the shares match.
func mismatches(policy string, rows []row) []string {
	var calls, rotation, common uint64
	for _, r := range rows {
		n := turns(policy, r.Weight, r.State)
		calls += r.Calls
		rotation += n
		common = gcd(common, n)
	}
	if calls == 0 {
		return []string{"no server got a call"}
	}
	if rotation == 0 {
		return []string{"no server should have got a call"}
	}
	var wrong []string
	for _, r := range rows {
		n := turns(policy, r.Weight, r.State)
		want := float64(calls*n) / float64(rotation)
		allowed := tolerance(policy, n/common, rotation/common, calls)
		if math.Abs(float64(r.Calls)-want) > allowed {
			wrong = append(wrong, fmt.Sprintf("%s got %d of %d calls, want %.1f, give or take %.1f",
				r.Addr, r.Calls, calls, want, allowed))
		}
	}
	return wrong
}

// sigmas is how many standard deviations a random share may be off. One run in some hundred thousand is off by more.
const sigmas = 5

// tolerance is how many calls an instance with that many turns in a rotation may be off.
func tolerance(policy string, turns, rotation, calls uint64) float64 {
	onePercent := float64(calls) / 100
	switch {
	case turns == 0:
		return 0
	case slices.Contains([]string{picker.WeightedRoundRobin, picker.RoundRobin}, policy):
		// Whole rotations are exact. In an unfinished one an instance has had at most its turns.
		return min(onePercent, float64(min(turns, calls%rotation)))
	}
	p := ratio(turns, rotation)
	return max(onePercent, sigmas*math.Sqrt(float64(calls)*p*(1-p)))
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
