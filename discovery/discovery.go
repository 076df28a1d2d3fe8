// Package discovery decides which instances of a service exist.
//
// A [Source] publishes a service's [Snapshot]s: [Etcd] from leased keys in etcd, [File] from a YAML file.
// A [Registrar] is the other side: it keeps one instance registered in etcd.
// Package discovery/grpcresolver offers a Source to Go clients that balance in-process.
//
// It leaves to others which services are watched and for how long (package proxy), and whether an instance
// can be reached (package picker): an instance exists for as long as its registration does.
package discovery

import "context"

// An Instance is one registered address of a service.
type Instance struct {
	Addr    string // host:port
	Version string // may be empty
	Weight  int    // 0 (drained: no new calls) to [MaxWeight]

	// Key is where the registry holds the instance, for people to find it again.
	Key string
	// CreateRevision tells one registration of an address from the next; ModRevision tells its changes apart.
	// Sources without revisions leave both 0.
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
