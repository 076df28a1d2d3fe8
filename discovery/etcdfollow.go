package discovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/metrics"
)

// errDiverged is why a watch is given up whose state is not the registry's.
var errDiverged = errors.New("audit found the watched state different from the registry")

const (
	relistFirst  = 100 * time.Millisecond
	relistMax    = 5 * time.Second
	relistJitter = 0.2

	// Publishing takes a large service's followers some time. After each snapshot there is a rest of a multiple
	// of what it took, so that a storm of events, as when leases expire by the thousand, leaves time for calls.
	restFactor = 9
	restMax    = 100 * time.Millisecond
)

// A follower keeps one service's snapshots up to date: the state of one Run.
type follower struct {
	// Immutable:
	e       *Etcd
	prefix  string
	metrics *metrics.Watch
	log     *zap.Logger
	publish func(Snapshot)

	confirmed atomic.Pointer[time.Time] // when etcd last confirmed the table
	trouble   atomic.Pointer[error]     // why it cannot now; nil if it can

	// Owned by run:
	table     *table
	revision  int64 // of the table
	published *Snapshot
	changed   bool        // the table may differ from published
	rested    time.Time   // when the next snapshot may be published
	wake      *time.Timer // for a snapshot that is due later

	retry  *backoff.ExponentialBackOff
	worked bool      // the last watch did
	down   time.Time // since when the state has not been confirmed, as far as was logged; zero if it is
}

func newFollower(e *Etcd, service string, m *metrics.Watch, publish func(Snapshot)) *follower {
	prefix := servicePrefix(e.client.root, service)
	wake := time.NewTimer(0)
	wake.Stop()
	return &follower{
		e: e, prefix: prefix, metrics: m, publish: publish,
		log:   e.log.With(zap.String("service", service)),
		table: newTable(service, prefix, e.limits.keepPoisoned),
		wake:  wake,
		retry: &backoff.ExponentialBackOff{
			InitialInterval: relistFirst, MaxInterval: relistMax, Multiplier: 2, RandomizationFactor: relistJitter,
		},
	}
}

func (f *follower) run(ctx context.Context) error {
	cause := metrics.RelistStart
	for {
		f.metrics.Relisted(cause)
		err := f.list(ctx)
		if err == nil {
			if cause == metrics.RelistListError {
				f.recovered()
			}
			err = f.watch(ctx)
			cause = relistCause(err)
		} else {
			cause = metrics.RelistListError
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		f.lost(cause, err)
		if err := f.pause(ctx); err != nil {
			return err
		}
	}
}

func relistCause(err error) metrics.RelistCause {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return metrics.RelistCompaction
	case errors.Is(err, errSilent):
		return metrics.RelistSilence
	case errors.Is(err, errDiverged):
		return metrics.RelistAudit
	default:
		return metrics.RelistWatchError
	}
}

// pause waits before the next list: not at all after a watch that worked.
func (f *follower) pause(ctx context.Context) error {
	if f.worked {
		f.worked = false
		f.retry.Reset()
		return nil
	}
	select {
	case <-time.After(f.retry.NextBackOff()):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *follower) list(ctx context.Context) error {
	kvs, revision, err := f.e.list(ctx, f.prefix, 0)
	if err != nil {
		return err
	}
	for _, fault := range f.table.replace(kvs, time.Now()) {
		f.report(&fault)
	}
	// Set even if it is lower: then etcd was restored from a backup.
	f.revision = revision
	f.confirm()
	f.refresh()
	return nil
}

// watch follows the registry from the table's revision on until that cannot be relied on any more.
func (f *follower) watch(ctx context.Context) error {
	s, err := f.e.board(ctx)
	if err != nil {
		return err
	}
	defer f.e.leave(s)
	ctx, cancel := s.context(ctx)
	defer cancel()
	// The watchdog guards the watch's creation, too, for which Watch waits.
	silence := f.e.limits.progress + f.e.limits.answer
	watchdog := time.AfterFunc(silence, func() { f.e.abandon(s) })
	defer watchdog.Stop()
	audit := time.NewTimer(f.auditAfter())
	defer audit.Stop()
	defer f.settle()

	// From the table's own revision, whose events it knows how to ignore, rather than the one after: etcd tells
	// no progress to a watch (nor to others on its stream) that starts at a revision that has yet to come.
	responses := s.watcher.Watch(ctx, f.prefix,
		clientv3.WithPrefix(), clientv3.WithRev(f.revision), clientv3.WithProgressNotify())
	for {
		select {
		case r, ok := <-responses:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := watchErr(r, ok); err != nil {
				if !errors.Is(err, rpctypes.ErrCompacted) {
					f.e.retire(s) // for all one knows it is the stream's fault, such as its token's having expired
				}
				return err
			}
			watchdog.Reset(silence)
			f.hear(s, r)
		case <-f.wake.C:
			f.refresh()
		case <-audit.C:
			if err := f.audit(ctx); err != nil {
				return err
			}
			watchdog.Reset(silence) // responses that came during the audit have waited
			audit.Reset(f.auditAfter())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func watchErr(r clientv3.WatchResponse, ok bool) error {
	if !ok {
		return errors.New("etcd's client closed the watch")
	}
	return r.Err()
}

func (f *follower) hear(s *watchStream, r clientv3.WatchResponse) {
	if r.IsProgressNotify() {
		s.noteProgress()
		f.reached(r.Header.Revision)
		f.works()
		return
	}
	now := time.Now()
	for _, event := range r.Events {
		f.apply(event, now)
	}
	if n := len(r.Events); n > 0 {
		// Not the response's revision: it is ahead of the events while the watch is catching up.
		if last := r.Events[n-1].Kv.ModRevision; last > f.revision {
			f.reached(last)
			f.works()
		}
	}
	if now.Before(f.rested) {
		f.changed = true
		f.wake.Reset(f.rested.Sub(now))
		return
	}
	f.refresh()
}

// works notes that the watch tells news, not just what the list knew.
func (f *follower) works() {
	f.worked = true
	f.recovered()
}

func (f *follower) reached(revision int64) {
	f.revision = max(f.revision, revision)
	f.confirm()
}

// confirm notes that etcd has just confirmed the table.
func (f *follower) confirm() {
	f.confirmed.Store(new(time.Now()))
	f.metrics.Confirmed(f.revision)
}

func (f *follower) standing() (s Standing) {
	if at := f.confirmed.Load(); at != nil {
		s.Confirmed = *at
	}
	if err := f.trouble.Load(); err != nil {
		s.Err = *err
	}
	return s
}

func (f *follower) apply(event *clientv3.Event, now time.Time) {
	if event.Type == mvccpb.Event_DELETE {
		f.table.delete(string(event.Kv.Key), event.Kv.ModRevision)
		return
	}
	if fault := f.table.put(event.Kv, now); fault != nil {
		f.report(fault)
	}
}

// refresh publishes the table unless it is what was published last.
func (f *follower) refresh() {
	start := time.Now()
	instances, next := f.table.instances(start)
	poisoned := f.table.poisoned()
	f.changed = false
	f.wake.Stop()
	if !next.IsZero() {
		f.wake.Reset(next.Sub(start))
	}
	f.metrics.SetInstances(len(instances))
	f.metrics.SetPoisoned(len(poisoned))
	same := f.published != nil && slices.Equal(instances, f.published.Instances)
	if same && slices.Equal(poisoned, f.published.Poisoned) {
		return
	}
	f.published = &Snapshot{Service: f.table.service, Revision: f.revision, Instances: instances, Poisoned: poisoned}
	if !same {
		f.log.Info("instances changed", zap.Int64("revision", f.revision), zap.Int("instances", len(instances)))
	}
	f.publish(*f.published)
	end := time.Now()
	f.rested = end.Add(min(restFactor*end.Sub(start), restMax))
}

// settle publishes what was still to be published when the watch ended. Kept values of poisoned entries stay
// while there is no watch, for that is no time to let go of instances.
func (f *follower) settle() {
	f.wake.Stop()
	if f.changed {
		f.refresh()
		f.wake.Stop()
	}
}

// audit compares the table with the registry at the table's own revision, so that neither is ahead.
func (f *follower) audit(ctx context.Context) error {
	f.metrics.Relisted(metrics.RelistAudit)
	kvs, _, err := f.e.list(ctx, f.prefix, f.revision)
	switch {
	case errors.Is(err, rpctypes.ErrFutureRev): // etcd was restored from a backup
	case err != nil:
		// Compacted, or etcd is busy: whether the watch is well is for the watchdog to say.
		f.log.Debug("audit could not read the registry", zap.Int64("revision", f.revision), zap.Error(err))
		return nil
	case f.table.equals(kvs):
		return nil
	}
	f.metrics.Diverged()
	return fmt.Errorf("%w at revision %d", errDiverged, f.revision)
}

// auditAfter varies, so that services that started together are not audited together.
func (f *follower) auditAfter() time.Duration {
	return time.Duration(float64(f.e.limits.audit) * (1 - relistJitter + 2*relistJitter*rand.Float64()))
}

// lost logs that the state can no longer be confirmed. What follows until it can is the same trouble.
func (f *follower) lost(cause metrics.RelistCause, err error) {
	f.trouble.Store(&err)
	level := f.log.Debug
	if f.down.IsZero() {
		f.down = time.Now()
		level = f.log.Warn
	}
	level("instances cannot be confirmed; the last known ones stay", zap.String("cause", string(cause)),
		zap.Int64("revision", f.revision), zap.Int("instances", f.known()), zap.Error(err))
}

func (f *follower) recovered() {
	f.trouble.Store(nil)
	if f.down.IsZero() {
		return
	}
	f.log.Info("instances are confirmed again", zap.Duration("after", time.Since(f.down)),
		zap.Int64("revision", f.revision), zap.Int("instances", f.known()))
	f.down = time.Time{}
}

func (f *follower) known() int {
	if f.published == nil {
		return 0
	}
	return len(f.published.Instances)
}

func (f *follower) report(fault *fault) {
	log := f.log.With(zap.String("key", fault.key), zap.Int64("revision", fault.revision))
	if fault.err != nil {
		f.metrics.Poisoned()
		log.Warn("registry entry is skipped", zap.Bool("last_good_value_kept", fault.kept), zap.Error(fault.err))
		return
	}
	f.metrics.Mismatched()
	log.Warn("registry entry's value contradicts its key, which wins", zap.String("value_says", fault.mismatch))
}
