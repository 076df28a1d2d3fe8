// Package picker decides which endpoint gets the next call.
//
// A [Pool] holds a service's endpoints: it reconciles them with the snapshots that discovery publishes, keeps
// what is known of each [Endpoint] across them, and offers the connected ones as one immutable [Generation].
// How a generation's endpoints take turns is its policy's business; policies are pure.
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
	// Tried is the endpoints that have had the call. As long as there are others, one of those is picked; then the
	// call begins anew, and Tried is cleared.
	Tried []*Endpoint
}

// picker chooses among a fixed set of endpoints one that has not been tried; nil if none is left. It is called by many
// goroutines at once and neither locks, blocks nor allocates.
type picker interface{ pick(*Info) *Endpoint }

// Candidate is an endpoint that may be picked, and the weight that it has now.
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
