// Package discovery decides which instances of a service exist.
//
// A [Source] publishes a service's [Snapshot]s: [Etcd] from leased keys in etcd, package file from a YAML file.
// A [Registrar] is the other side: it keeps one instance registered in etcd.
// Package discovery/grpcresolver offers a Source to Go clients that balance in-process.
//
// It leaves to others which services are watched and for how long (package proxy), and whether an instance
// can be reached (package picker): an instance exists for as long as its registration does.
package discovery

import (
	"context"
	"time"
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

// A Source publishes one service's snapshots: the full state first, then every change, all from the goroutine
// that called Run. The first snapshot is published even when it is empty; a source that cannot reach its
// registry publishes nothing rather than nothing-there.
//
// Run retries on its own, for ever. It returns context.Cause(ctx) once ctx is done, or an error that retrying
// cannot cure. Run may be called for many services at once.
type Source interface {
	Run(ctx context.Context, service string, publish func(Snapshot)) error
}

// A Reporter is a [Source] that says how its registry stands by what was published.
type Reporter interface {
	Source
	// Standing tells of a service for as long as a Run for it lasts. It may be called from any goroutine.
	Standing(service string) Standing
}

// Standing is how a registry stands by what a source has published of a service.
type Standing struct {
	Confirmed time.Time // when the registry last confirmed it; zero if it never has
	Err       error     // why the registry cannot confirm it now, as far as is known; nil if nothing is wrong
	Note      string    // what else is to be known of how it is confirmed; may be empty
}
