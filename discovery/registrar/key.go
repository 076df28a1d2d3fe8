package registrar

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// reconcile makes the key hold what it should, whatever it holds now, and returns once a read has shown that it
// does, with the revision of that read. Where someone else has written the key it may be too early to write
// over that: then it leaves the key alone and sets takeBackAt.
func (r *Registrar) reconcile(ctx context.Context, client *clientv3.Client) (revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.patience())
	defer cancel()
	key := r.instance.Key
	for {
		in, wanted := r.want()
		_, value := r.dialect.Encode(r.service, in)
		read, err := client.Get(ctx, key)
		if err != nil {
			return 0, fmt.Errorf("read the key: %w", err)
		}
		found := &mvccpb.KeyValue{}
		if len(read.Kvs) > 0 {
			found = read.Kvs[0]
		}
		ours := clientv3.LeaseID(found.Lease) == r.lease.id
		switch {
		case ours && string(found.Value) == string(value):
			r.setRegistered(found, in.Weight, wanted)
			return read.Header.Revision, nil
		case found.ModRevision == 0:
			if r.heldUnder == r.lease.id {
				r.log.Warn("the registration is gone from etcd; restoring it")
			}
		case r.held == 0 && !ours:
			// Overwritten, not deleted: it is never gone. Proxies tell by the lease that it is another registration.
			r.log.Info("replacing an earlier registration", zap.String("lease", leaseName(found.Lease)))
		case ours && (found.ModRevision == r.held || string(found.Value) == r.written): // a new weight is wanted
		case !r.mayTakeBack(found):
			return read.Header.Revision, nil
		}
		r.written = string(value)
		write := clientv3.OpPut(key, r.written, clientv3.WithLease(r.lease.id))
		unchanged := clientv3.Compare(clientv3.ModRevision(key), "=", found.ModRevision)
		if _, err := client.Txn(ctx).If(unchanged).Then(write).Commit(); err != nil {
			if errors.Is(err, rpctypes.ErrLeaseNotFound) {
				r.lease = lease{}
			}
			return 0, fmt.Errorf("write the key: %w", err)
		}
	}
}

// mayTakeBack is whether what someone else wrote has stood for long enough.
func (r *Registrar) mayTakeBack(found *mvccpb.KeyValue) bool {
	now := time.Now()
	if !r.takeBackAt.IsZero() {
		if now.Before(r.takeBackAt) {
			return false
		}
		r.takeBackAt = time.Time{}
		return true
	}
	if now.Sub(r.conflictAt) > conflictForget {
		r.conflicts.Reset()
	}
	wait := r.conflicts.Next()
	r.conflictAt, r.takeBackAt = now, now.Add(wait)
	lease := leaseName(found.Lease)
	r.setUnregistered(fmt.Errorf("someone else wrote the key, under lease %s", lease))
	r.log.Warn("someone else wrote the registration; is there a second process with this address, or was it etcdctl? taking it back",
		zap.String("lease", lease), zap.ByteString("value", found.Value), zap.Duration("in", wait))
	return false
}

// deregister deletes the key, if it is still ours, and revokes the lease.
func (r *Registrar) deregister(ctx context.Context) error {
	// If this member does not answer, there must be time left for another.
	ctx, cancel := context.WithTimeout(ctx, r.client.RequestTimeout()/3)
	defer cancel()
	return r.client.Do(ctx, func(client *clientv3.Client) error { return r.remove(ctx, client) })
}

func (r *Registrar) remove(ctx context.Context, client *clientv3.Client) error {
	ours := clientv3.Compare(clientv3.LeaseValue(r.instance.Key), "=", r.lease.id)
	if _, err := client.Txn(ctx).If(ours).Then(clientv3.OpDelete(r.instance.Key)).Commit(); err != nil {
		return fmt.Errorf("delete the key: %w", err)
	}
	_, err := client.Revoke(ctx, r.lease.id)
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("revoke the lease: %w", err)
	}
	return nil
}

// leaseName is how etcdctl writes a lease; "none" if there is none.
func leaseName(lease int64) string {
	if lease == 0 {
		return "none"
	}
	return strconv.FormatInt(lease, 16)
}
