package etcd

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A listing is a list of all keys below a prefix, in pages. After a failure it goes on where it was: pages that came
// stay.
type listing struct {
	// Immutable:
	prefix       string
	due          time.Time // not before
	otherHistory bool      // than that of what is known

	cause    cause
	revision int64 // of all pages: together they are one state that has been; 0 before the first
	kvs      []*mvccpb.KeyValue
	header   *pb.ResponseHeader // of the latest page
	timeouts int                // in a row
}

// list reads the pages of l that are missing, in a slot.
func (m *Mux) list(ctx context.Context, l *listing) error {
	return m.withSlot(ctx, func() error {
		for {
			page, err := m.page(ctx, l)
			if err != nil {
				l.failed(err)
				return err
			}
			l.timeouts = 0
			l.header = page.Header
			if l.revision == 0 {
				l.revision = page.Header.Revision
			}
			l.kvs = append(l.kvs, page.Kvs...)
			if !page.More || len(page.Kvs) == 0 {
				return nil
			}
		}
	})
}

func (m *Mux) page(ctx context.Context, l *listing) (*clientv3.GetResponse, error) {
	from := l.prefix
	if n := len(l.kvs); n > 0 {
		from = string(l.kvs[n-1].Key) + "\x00"
	}
	return m.read(ctx, doubled(m.client.RequestTimeout(), l.timeouts), from,
		clientv3.WithRange(clientv3.GetPrefixRangeEnd(l.prefix)),
		clientv3.WithLimit(m.Limits.Page),
		clientv3.WithRev(l.revision))
}

func (l *listing) failed(err error) {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted), errors.Is(err, rpctypes.ErrFutureRev):
		// The state that the first pages show is gone.
		l.revision, l.kvs = 0, nil
	case errors.Is(err, context.DeadlineExceeded):
		l.timeouts++
	}
}
