// Package discovery decides what it means that an instance of a service exists: what an [Instance] is, what a
// [Source] promises of the [Snapshot]s that it publishes, and which names, addresses and weights there may be.
//
// Sources are package registry, of leased keys in etcd, and package file, of a YAML file. Package registrar is the
// other side: it keeps one instance registered. Package grpcresolver offers a Source to Go clients that balance
// in-process.
//
// It leaves to others which services are watched and for how long (package proxy), and whether an instance
// can be reached (package picker): an instance exists for as long as its registration does.
package discovery

import (
	"context"
	"time"
)

// A Source publishes one service's snapshots: the full state first, then every change, all from the goroutine
// that called Run. The first snapshot is published even when it is empty; a source that cannot reach its
// registry publishes nothing rather than nothing-there.
//
// Run retries on its own, for ever. It returns context.Cause(ctx) once ctx is done, or an error that retrying
// cannot cure. Run may be called for many services at once.
type Source interface {
	Run(ctx context.Context, service string, publish func(Snapshot)) error
}

// A Prober is a [Source] that can tell whether its registry can be read before a service is asked for.
type Prober interface {
	Source
	// Probe reports why the registry cannot be read; nil if it can.
	Probe(ctx context.Context) error
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
