package discovery

import (
	"cmp"
	"slices"
	"strings"
)

// An Instance is one registered address of a service.
type Instance struct {
	Addr    string // host:port
	Version string // may be empty
	Weight  int    // 0 (drained: no new calls) to [MaxWeight]

	// Key is where the registry holds the instance, for people to find it again.
	Key string
	// Registered tells one registration of an address from the next: it is the revision at which the source first saw
	// this one, and goes up. A registration is a key from its creation on, under one lease: a process that takes the
	// key over from an earlier one, without a moment in which there is none, does so under a lease of its own.
	Registered int64
	// CreateRevision is the key's; ModRevision tells the changes of a registration apart. Sources without revisions
	// leave all three 0.
	CreateRevision int64
	ModRevision    int64
}

// A Snapshot is all instances of a service at one revision of its registry.
// It is never modified once it has been published.
type Snapshot struct {
	Service  string
	Revision int64
	// Instances is sorted by Addr and holds each Addr once.
	Instances []Instance
	// Poisoned is sorted by Key. It includes entries whose last good value still stands among the instances.
	Poisoned []Poisoned
}

// Poisoned is a registry entry that cannot be used.
type Poisoned struct {
	Key      string
	Revision int64  // of the entry's last change
	Fault    string // what is wrong with it
}

// SortUnique makes of instances what a snapshot holds. It sorts them by address and leaves one of each: the one written
// last, because an address is one process, and what it left under another key is a lease that has yet to run out.
func SortUnique(instances []Instance) []Instance {
	slices.SortFunc(instances, func(a, b Instance) int {
		if c := strings.Compare(a.Addr, b.Addr); c != 0 {
			return c
		}
		if c := cmp.Compare(b.ModRevision, a.ModRevision); c != 0 {
			return c
		}
		return strings.Compare(a.Key, b.Key)
	})
	return slices.CompactFunc(instances, func(a, b Instance) bool { return a.Addr == b.Addr })
}
