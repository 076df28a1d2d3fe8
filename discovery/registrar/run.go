package registrar

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lbproxy/lbproxy/discovery/etcd"
)

const (
	registerRetryMin = 500 * time.Millisecond
	registerRetryMax = 5 * time.Second

	stopRetryMin = 100 * time.Millisecond
	stopRetryMax = time.Second

	// While someone else holds the key the address is registered all the same, so there is no hurry.
	conflictMax    = time.Minute
	conflictForget = 5 * time.Minute

	// A watch that has gone silent is not trusted: the key is read this often in any case.
	keyAuditInterval = time.Minute
)

var (
	errStopped  = errors.New("the registrar is stopped")
	errKeyWatch = errors.New("etcd has ended the watch of the key")
)

func (r *Registrar) run(ctx context.Context) {
	defer close(r.done)
	for {
		began := time.Now()
		err := r.client.Do(ctx, func(client *clientv3.Client) error { return r.hold(ctx, client) })
		if ctx.Err() != nil {
			return
		}
		r.reportTrouble(fmt.Errorf("etcd %s: %w", r.client.Endpoints(), err))
		if r.isUrgent(err) {
			r.retry.Reset()
			if time.Since(began) > registerRetryMin {
				continue
			}
		}
		select {
		case <-time.After(r.retry.Next()):
		case <-ctx.Done():
			return
		}
	}
}

// isUrgent reports whether there may still be time to renew the lease, or the registration was lost just now. Otherwise
// etcd is given time to recover.
func (r *Registrar) isUrgent(err error) bool {
	return r.standsFor() > 0 || errors.Is(err, errLeaseEnded) || errors.Is(err, rpctypes.ErrLeaseNotFound)
}

// hold registers, and keeps the registration until it fails.
func (r *Registrar) hold(ctx context.Context, client *clientv3.Client) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	beat := &heartbeat{ctx: ctx, cancel: cancel, client: client}
	if err := r.ensureLease(ctx, client, beat); err != nil {
		return err
	}
	revision, err := r.reconcile(ctx, client)
	if err != nil {
		return err
	}
	// A watcher of its own has a stream of its own, never one that is left over from a member that does not answer.
	watcher := clientv3.NewWatcher(client)
	defer watcher.Close()
	late := time.AfterFunc(r.patience(), func() { cancel(fmt.Errorf("watch of the key: %w", etcd.ErrUnanswered)) })
	watch := watcher.Watch(clientv3.WithRequireLeader(ctx), r.instance.Key, clientv3.WithRev(revision+1))
	late.Stop()
	return r.maintain(ctx, client, beat, watch)
}

// maintain renews the lease, and reconciles the key whenever something may have happened to it, or a new weight is
// wanted.
func (r *Registrar) maintain(ctx context.Context, client *clientv3.Client, beat *heartbeat, watch clientv3.WatchChan) error {
	audit := time.NewTicker(keyAuditInterval)
	defer audit.Stop()
	for {
		var takeBack <-chan time.Time
		if !r.takeBackAt.IsZero() {
			takeBack = time.After(time.Until(r.takeBackAt))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Until(r.lease.renewed.Add(r.ttl / 3))):
			if err := r.renew(beat); err != nil {
				return err
			}
			continue
		case seen, ok := <-watch:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !ok {
				return errKeyWatch
			}
			if err := seen.Err(); err != nil {
				return fmt.Errorf("watch of the key: %w", err)
			}
		case <-r.wake:
		case <-takeBack:
		case <-audit.C:
		}
		if _, err := r.reconcile(ctx, client); err != nil {
			return err
		}
	}
}
