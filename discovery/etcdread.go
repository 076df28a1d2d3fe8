package discovery

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/metrics"
)

// timeoutMax bounds the time for a read where etcd has been too slow again and again.
const timeoutMax = time.Minute

// read is request, with the address in the error.
func (e *Etcd) read(ctx context.Context, timeout time.Duration, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	r, err := e.request(ctx, timeout, key, opts...)
	if err != nil {
		return nil, fmt.Errorf("etcd at %s: %w", e.client.Endpoints(), err)
	}
	return r, nil
}

// request reads from etcd. All reads are linearizable, as etcd's are by default: a member that lags behind does not
// answer with its past. One that does not answer at all is left for another.
func (e *Etcd) request(ctx context.Context, timeout time.Duration, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	client, err := e.client.get(ctx)
	if err != nil {
		return nil, err
	}
	moved := e.client.moved()
	ctx, cancel := context.WithTimeout(atOnce(ctx), timeout)
	defer cancel()
	r, err := client.Get(ctx, key, opts...)
	if err == nil {
		return r, nil
	}
	if unanswered(err) {
		e.client.moveOn(moved)
	}
	return nil, wrongServer(err)
}

// unanswered says that a member does not do its work, alone or because it does not reach the others.
func unanswered(err error) bool {
	if served, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return served.Code() == codes.Unavailable
	}
	return errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.Unavailable
}

// A listing is a list of all entries below a prefix. Where it fails it can be gone on with: what has been read stays.
type listing struct {
	// Immutable:
	prefix       string
	due          time.Time // not before
	otherHistory bool      // than that of what is known

	cause    metrics.DiscoveryCause
	revision int64 // of all pages: together they are one state that has been; 0 before the first
	kvs      []*mvccpb.KeyValue
	header   *pb.ResponseHeader // of the latest page
	timeouts int                // in a row
}

// list reads the pages that l has yet to read. It waits while the process reads as much as it may at a time.
func (e *Etcd) list(ctx context.Context, l *listing) error {
	return e.withSlot(ctx, func() error {
		for {
			page, err := e.page(ctx, l)
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

func (e *Etcd) page(ctx context.Context, l *listing) (*clientv3.GetResponse, error) {
	from := l.prefix
	if n := len(l.kvs); n > 0 {
		from = string(l.kvs[n-1].Key) + "\x00"
	}
	return e.read(ctx, doubled(e.client.requestTimeout(), l.timeouts), from,
		clientv3.WithRange(clientv3.GetPrefixRangeEnd(l.prefix)),
		clientv3.WithLimit(e.limits.page),
		clientv3.WithRev(l.revision))
}

func (l *listing) failed(err error) {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted), errors.Is(err, rpctypes.ErrFutureRev):
		// The state that the first pages are of is no more to be had.
		l.revision, l.kvs = 0, nil
	case errors.Is(err, context.DeadlineExceeded):
		l.timeouts++
	}
}

// doubled is first, doubled for each time that it was too short: an etcd that is overloaded would not get better by
// starting again and again with work that it never ends, or by having its callers go from member to member.
func doubled(first time.Duration, times int) time.Duration {
	return min(first<<min(times, 10), max(first, timeoutMax))
}

// patience is how long a small read may take.
func (e *Etcd) patience() time.Duration {
	return doubled(e.client.requestTimeout(), int(e.slow.Load()))
}

// A digest stands for a state of a service's entries. Every change but a deletion makes the newest modification newer,
// and a deletion makes the count smaller: states of the same digest, one after the other, are the same.
type digest struct {
	count  int64
	newest int64 // the highest modification revision
}

// digest reads what the entries below prefix come to at revision, or now if revision is 0, and none of the entries.
func (e *Etcd) digest(ctx context.Context, prefix string, revision int64) (d digest, err error) {
	err = e.withSlot(ctx, func() error {
		r, err := e.read(ctx, e.patience(), prefix,
			clientv3.WithPrefix(),
			clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend),
			clientv3.WithLimit(1), // RangeResponse.count "is unaffected by limits" (etcd's rpc.proto)
			clientv3.WithKeysOnly(),
			clientv3.WithRev(revision))
		if err != nil {
			return err
		}
		d.count = r.Count
		if len(r.Kvs) > 0 {
			d.newest = r.Kvs[0].ModRevision
		}
		return nil
	})
	return d, err
}

// withSlot calls f when fewer than the most reads at a time are under way in the process.
func (e *Etcd) withSlot(ctx context.Context, f func() error) error {
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
		return f()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A glance is what etcd said of itself at a moment.
type glance struct {
	header *pb.ResponseHeader
	at     time.Time // when it was asked
}

// glance asks etcd where it is, once for all services that want to know at a time. The answer is to a question from
// after since, but not always from after the call.
func (e *Etcd) glance(ctx context.Context, since time.Time) (*glance, error) {
	if g := e.glanced.Load(); g != nil && g.at.After(since) && time.Since(g.at) < e.limits.answer/5 {
		return g, nil
	}
	for {
		asked := e.glances.DoChan("", func() (any, error) {
			at := time.Now()
			// A user may read below the root and perhaps nowhere else. There is no such key.
			r, err := e.read(e.client.ctx, e.patience(), e.client.root+"/", clientv3.WithCountOnly())
			if err != nil {
				if errors.Is(err, context.DeadlineExceeded) {
					e.slow.Add(1)
				}
				return nil, err
			}
			e.slow.Store(0)
			g := &glance{r.Header, at}
			e.glanced.Store(g)
			return g, nil
		})
		select {
		case a := <-asked:
			if a.Err != nil {
				return nil, a.Err
			}
			if g := a.Val.(*glance); g.at.After(since) { // or it had been asked by somebody else before
				return g, nil
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
