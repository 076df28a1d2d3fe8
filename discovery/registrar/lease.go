package registrar

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lbproxy/lbproxy/discovery/etcd"
)

var errLeaseEnded = errors.New("the lease has ended")

// A lease is what a registration stands under.
type lease struct {
	id      clientv3.LeaseID // 0 for none
	renewed time.Time        // when etcd was asked for it, or asked to renew it, and did
}

// shortestPatience is what a busy member is given to answer, however short the lease.
const shortestPatience = time.Second

// patience is how long a member may take to answer before another is asked, in time: a lease is renewed after a third
// of its time, and that attempt is given up after the second third.
func (r *Registrar) patience() time.Duration {
	return min(r.client.RequestTimeout(), max(r.ttl/3, shortestPatience))
}

// standsFor is how long the registration outlives the silence of etcd.
func (r *Registrar) standsFor() time.Duration {
	if r.lease.id == 0 || r.heldUnder != r.lease.id {
		return 0
	}
	return max(0, r.ttl-time.Since(r.lease.renewed))
}

// ensureLease keeps the present lease if it is still alive: then the key is, too, and nobody notices that the
// connection was lost. Otherwise it gets a new one.
func (r *Registrar) ensureLease(ctx context.Context, client *clientv3.Client, beat *heartbeat) error {
	if r.lease.id != 0 {
		err := r.renew(beat)
		if !errors.Is(err, errLeaseEnded) {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, r.client.RequestTimeout())
	defer cancel()
	asked := time.Now()
	granted, err := client.Grant(ctx, int64(r.ttl/time.Second))
	if err != nil {
		return fmt.Errorf("get a lease: %w", err)
	}
	r.lease = lease{granted.ID, asked}
	return nil
}

// renew asks etcd to let the lease live on.
func (r *Registrar) renew(beat *heartbeat) error {
	asked := time.Now()
	ended, err := beat.once(r.lease.id, r.patience())
	if err != nil {
		return fmt.Errorf("renew the lease: %w", err)
	}
	if ended {
		r.lease = lease{}
		return errLeaseEnded
	}
	r.lease.renewed = asked
	return nil
}

// A heartbeat renews leases on one stream. Etcd's client could, but it reports that nobody answers only after the lease
// has ended.
type heartbeat struct {
	ctx    context.Context
	cancel context.CancelCauseFunc // ends the stream, and all that relies on it
	client *clientv3.Client
	stream pb.Lease_LeaseKeepAliveClient // nil before the first time
}

// once renews a lease. If that has no answer in time, ctx ends.
func (b *heartbeat) once(id clientv3.LeaseID, patience time.Duration) (ended bool, err error) {
	unanswered := time.AfterFunc(patience, func() { b.cancel(fmt.Errorf("%w for %v", etcd.ErrUnanswered, patience)) })
	defer unanswered.Stop()
	answer, err := b.exchange(&pb.LeaseKeepAliveRequest{ID: int64(id)})
	if b.ctx.Err() != nil {
		return false, context.Cause(b.ctx)
	}
	if err != nil {
		return false, err
	}
	return answer.TTL <= 0, nil
}

func (b *heartbeat) exchange(ask *pb.LeaseKeepAliveRequest) (*pb.LeaseKeepAliveResponse, error) {
	if b.stream == nil {
		// With WithRequireLeader, a member that has lost the others says so.
		stream, err := pb.NewLeaseClient(b.client.ActiveConnection()).LeaseKeepAlive(clientv3.WithRequireLeader(b.ctx))
		if err != nil {
			return nil, etcd.Explain(b.client, err)
		}
		b.stream = stream
	}
	if err := b.stream.Send(ask); err != nil {
		_, err = b.stream.Recv() // tells why
		return nil, err
	}
	return b.stream.Recv()
}
