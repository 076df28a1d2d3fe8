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
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/discovery"
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
		r.trouble(fmt.Errorf("etcd %s: %w", r.client.Endpoints(), err))
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

// isUrgent says whether there may be just enough time left to renew the lease, or the registration has only now been
// lost. Otherwise etcd is to have time to recover.
func (r *Registrar) isUrgent(err error) bool {
	return r.standsFor() > 0 || errors.Is(err, errLeaseEnded) || errors.Is(err, rpctypes.ErrLeaseNotFound)
}

// hold registers and sees to it that the registration stays. It returns why that cannot be said any longer.
func (r *Registrar) hold(ctx context.Context, client *clientv3.Client) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	beat := &heartbeat{ctx: ctx, cancel: cancel, client: client}
	if err := r.ensureLease(ctx, client, beat); err != nil {
		return err
	}
	revision, err := r.settle(ctx, client)
	if err != nil {
		return err
	}
	// A watcher of its own has a stream of its own, and never one that a member which does not answer has left.
	watcher := clientv3.NewWatcher(client)
	defer watcher.Close()
	late := time.AfterFunc(r.patience(), func() { cancel(fmt.Errorf("watch of the key: %w", etcd.ErrUnanswered)) })
	watch := watcher.Watch(clientv3.WithRequireLeader(ctx), r.instance.Key, clientv3.WithRev(revision+1))
	late.Stop()
	return r.keep(ctx, client, beat, watch)
}

// keep renews the lease, and settles the key whenever something may have happened to it, or a new weight is wanted.
func (r *Registrar) keep(ctx context.Context, client *clientv3.Client, beat *heartbeat, watch clientv3.WatchChan) error {
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
		if _, err := r.settle(ctx, client); err != nil {
			return err
		}
	}
}

// trouble notes why it is not known whether etcd holds the registration. Until its lease can have run out, it does.
func (r *Registrar) trouble(why error) {
	message := "not registered, as far as is known; trying again"
	left := r.standsFor()
	if left > 0 {
		message = "etcd cannot be asked; the registration stands until its lease runs out; trying again"
		r.mu.Lock()
		r.status.Error = why.Error()
		r.announce()
		r.mu.Unlock()
	} else {
		r.setUnregistered(why)
	}
	if kind := message + errorKind(why); !r.logged[kind] {
		r.logged[kind] = true
		r.log.Warn(message, zap.Duration("left", left), zap.Error(why))
	}
}

// settle makes the key hold what it should, whatever it holds now, and returns once a read has shown that it
// does, with the revision of that read. Where someone else has written the key it may be too early to write
// over that: then it leaves the key alone and sets takeBackAt.
func (r *Registrar) settle(ctx context.Context, client *clientv3.Client) (revision int64, err error) {
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
			// Written over, not deleted: there is no moment without it. That it is another, proxies see by its lease.
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
	// There is to be time for another member when this one does not answer.
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

// want is the instance to register, and the count of SetWeight that made it so.
func (r *Registrar) want() (discovery.Instance, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	in := r.instance
	in.Weight = r.status.Weight
	return in, r.wanted
}

// setRegistered notes that etcd holds the registration with the given weight.
func (r *Registrar) setRegistered(kv *mvccpb.KeyValue, weight, wanted int) {
	first := r.heldUnder == 0
	r.heldUnder, r.held, r.takeBackAt = r.lease.id, kv.ModRevision, time.Time{}
	clear(r.logged)

	r.mu.Lock()
	before := r.status
	s := &r.status
	s.Registered, s.Error, s.Lease = true, "", leaseName(kv.Lease)
	s.CreateRevision, s.ModRevision = kv.CreateRevision, kv.ModRevision
	r.confirmed = wanted
	r.announce()
	r.mu.Unlock()

	fields := []zap.Field{
		zap.Int("weight", weight), zap.String("lease", leaseName(kv.Lease)),
		zap.Int64("create_revision", kv.CreateRevision), zap.Int64("revision", kv.ModRevision),
	}
	switch {
	case !before.Registered:
		r.log.Info("registered", fields...)
	case before.ModRevision != kv.ModRevision:
		r.log.Info("registration written", fields...)
	case before.Error != "":
		r.log.Info("the registration is confirmed again", fields...)
	}
	if first {
		close(r.registered)
	}
}

// setUnregistered notes why etcd is not known to hold the registration.
func (r *Registrar) setUnregistered(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Registered, r.status.Error = false, why.Error()
	r.announce()
}

// errorKind is the same for errors of one cause, whatever addresses and times their texts hold.
func errorKind(err error) string {
	var refused rpctypes.EtcdError
	if errors.As(err, &refused) {
		return refused.Error()
	}
	return status.Code(err).String()
}

// announce wakes who waits for a change. The caller holds mu.
func (r *Registrar) announce() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// leaseName is how etcdctl writes a lease; "none" if there is none.
func leaseName(lease int64) string {
	if lease == 0 {
		return "none"
	}
	return strconv.FormatInt(lease, 16)
}
