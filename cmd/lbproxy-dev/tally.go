package main

import (
	"slices"
	"time"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
)

// A tally counts the calls since the shares that instances should have changed last: those before were shared
// otherwise.
type tally struct {
	since  time.Time
	shares []share
	before map[string]uint64 // each instance's calls by then
}

// share is what an instance's share depends on. Its registration is part of it, because lbproxy may have
// counted anew since the last.
type share struct {
	addr           string
	turns          uint64
	createRevision int64
}

// rows brings the tally up to date and makes a row of each instance.
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
