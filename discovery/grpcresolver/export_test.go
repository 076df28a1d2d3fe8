package grpcresolver

import (
	"time"

	"google.golang.org/grpc/resolver"

	"github.com/lbproxy/lbproxy/discovery"
)

// NewImpatient is New with another wait for the first snapshot.
func NewImpatient(source discovery.Source, firstSnapshotWait time.Duration) resolver.Builder {
	return &builder{source: source, firstSnapshotWait: firstSnapshotWait}
}
