package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// timeoutMax bounds the timeout of a read after several that were too short.
const timeoutMax = time.Minute

// read is request, with the address in the error.
func (m *Mux) read(ctx context.Context, timeout time.Duration, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	r, err := m.request(ctx, timeout, key, opts...)
	if err != nil {
		return nil, fmt.Errorf("etcd at %s: %w", m.client.Endpoints(), err)
	}
	return r, nil
}

// request reads from etcd. All reads are linearizable, as etcd's are by default: a member that lags behind does not
// answer with its past. One that does not answer at all is left for another.
func (m *Mux) request(ctx context.Context, timeout time.Duration, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	var r *clientv3.GetResponse
	err := m.client.Do(ctx, func(client *clientv3.Client) (err error) {
		ctx, cancel := context.WithTimeout(atOnce(ctx), timeout)
		defer cancel()
		r, err = client.Get(ctx, key, opts...)
		return err
	})
	return r, wrongServer(err)
}

// doubled is first, doubled for each time that it was too short: an overloaded etcd would not recover if it kept
// starting work that is never finished, or if its callers went from member to member.
func doubled(first time.Duration, times int) time.Duration {
	return min(first<<min(times, 10), max(first, timeoutMax))
}

// patience is how long a small read may take.
func (m *Mux) patience() time.Duration {
	return doubled(m.client.RequestTimeout(), int(m.slow.Load()))
}

// withSlot calls f once fewer than maxReads are under way.
func (m *Mux) withSlot(ctx context.Context, f func() error) error {
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
		return f()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A glance is etcd's revision, term and cluster at a moment.
type glance struct {
	header *pb.ResponseHeader
	at     time.Time // when it was asked
}

// glance asks etcd for its revision, once for all prefixes that ask at a time. The answer is to a request made after
// since, but maybe before the call.
func (m *Mux) glance(ctx context.Context, since time.Time) (*glance, error) {
	if g := m.glanced.Load(); g != nil && g.at.After(since) && time.Since(g.at) < m.Limits.Answer/5 {
		return g, nil
	}
	for {
		asked := m.glances.DoChan("", func() (any, error) {
			at := time.Now()
			// A user may read below the root and perhaps nowhere else. There is no such key.
			r, err := m.read(m.client.ctx, m.patience(), m.client.Root()+"/", clientv3.WithCountOnly())
			if err != nil {
				if errors.Is(err, context.DeadlineExceeded) {
					m.slow.Add(1)
				}
				return nil, err
			}
			m.slow.Store(0)
			g := &glance{r.Header, at}
			m.glanced.Store(g)
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
