package main

import (
	"slices"
	"time"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
)

// A tally counts calls since the expected shares last changed: earlier calls were shared out differently.
type tally struct {
	since  time.Time
	shares []share
	before map[string]uint64 // each instance's calls at that time
}

// share is what an instance's share depends on. Its registration is part of that, because lbproxy may have restarted its
// count since.
type share struct {
	addr           string
	turns          uint64
	createRevision int64
}

// rows updates the tally and makes a row for each instance.
func (t *tally) rows(now time.Time, s proxy.ServiceStatus) []row {
	var shares []share
	for _, in := range s.Instances {
		shares = append(shares, share{in.Addr, turns(s.Policy, in.Weight, in.State), in.CreateRevision})
	}
	if t.before == nil || !slices.Equal(shares, t.shares) {
		*t = tally{since: now, shares: shares, before: map[string]uint64{}}
		for _, in := range s.Instances {
			t.before[in.Addr] = in.Calls
		}
	}
	return newRows(s.Policy, s.Instances, func(in picker.EndpointStatus) uint64 { return in.Calls - t.before[in.Addr] })
}
