// Package picker decides which endpoint gets the next call.
//
// A [Pool] holds a service's endpoints: it reconciles them with the snapshots that discovery publishes, keeps what is
// known of each [Endpoint] across them, and offers the eligible ones as one immutable [Generation]. A generation is
// made in stages: eligible, subset, policy. How endpoints take turns is the policy's business; policies are pure.
//
// It leaves to others which service a call is for and what to do when nothing can be picked (package proxy),
// and how an endpoint is connected to and used (the engines).
package picker

import (
	"fmt"
	"strings"
)

// The policies. Every one leaves out endpoints that are not connected and those of weight 0.
const (
	// WeightedRoundRobin gives each endpoint exactly its weight's share of every rotation, evenly spread.
	WeightedRoundRobin = "weighted_round_robin"
	// RoundRobin gives each endpoint one call of every rotation, whatever its weight.
	RoundRobin = "round_robin"
	// Random draws endpoints by weight.
	Random = "random"
	// LeastRequest draws two endpoints by weight and takes the one with fewer running calls for its weight.
	LeastRequest = "least_request"
)

var policies = []string{WeightedRoundRobin, RoundRobin, Random, LeastRequest}

// ValidatePolicy reports why name is not a policy's.
func ValidatePolicy(name string) error {
	if _, err := policyByName(name); err != nil {
		return err
	}
	return nil
}

// Info is what a pick depends on that differs from call to call. It lives in the call.
type Info struct {
	// Subset is the version that the choice is limited to; empty, it is not.
	Subset string
	// Tried lists the endpoints where the call has failed. None of them is picked while there are others; when there
	// are none, the list is cleared and any may be picked again.
	Tried []*Endpoint
}

// picker chooses one of a fixed set of endpoints that the call has not tried; nil if none is left. It is called by many
// goroutines at once and neither locks, blocks nor allocates.
type picker interface{ pick(*Info) *Endpoint }

// A Candidate is an endpoint that may be picked, and its effective weight, which is positive.
type Candidate struct {
	*Endpoint
	Weight int
}

// policy makes a picker of one or more candidates, sorted by address. Prev is the picker it replaces, or nil.
type policy func(candidates []Candidate, prev picker) picker

func policyByName(name string) (policy, error) {
	switch name {
	case WeightedRoundRobin:
		return newWeightedRoundRobin, nil
	case RoundRobin:
		return newUnweightedRoundRobin, nil
	case Random:
		return newRandom, nil
	case LeastRequest:
		return newLeastRequest, nil
	}
	return nil, fmt.Errorf("policy %q is unknown; use one of %s", name, strings.Join(policies, ", "))
}
