package discovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/internal/backoff"
	"github.com/lbproxy/lbproxy/metrics"
)

const (
	retryFirst = 100 * time.Millisecond
	retryMax   = 5 * time.Second

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
	table    *table
	revision int64              // of the table
	header   *pb.ResponseHeader // of etcd's, the latest that has been compared with the table
	listing  *listing           // what is to be listed before the next watch; nil if nothing is
	unsure   bool               // a watch was lost, and etcd has not been asked since whether it is where it was
	asOf     time.Time          // when the table was last known to change, or the watch to be lost
	verified int64              // a revision at which etcd held just what the table still holds; 0 for none
	behind   time.Time          // since when etcd has news that the watch has not told; zero if it has none

	published *Snapshot
	changed   bool        // the table may differ from published
	rested    time.Time   // when the next snapshot may be published
	wake      *time.Timer // for a snapshot that is due later
	quiet     *time.Timer // for a watch that has told nothing for some time
	audits    *time.Timer

	asking  bool              // etcd has been asked something and has not answered yet
	answers chan func() error // what is to be done with its answer; of the present watch
	askers  sync.WaitGroup

	retry  *backoff.Backoff
	worked bool // the last watch did
}

func newFollower(e *Etcd, service string, m *metrics.Watch, publish func(Snapshot)) *follower {
	prefix := servicePrefix(e.client.root, service)
	return &follower{
		e: e, prefix: prefix, metrics: m, publish: publish,
		log:   e.log.With(zap.String("service", service)),
		table: newTable(service, prefix, e.limits.keepPoisoned),
		wake:  stoppedTimer(), quiet: stoppedTimer(), audits: stoppedTimer(),
		retry: backoff.New(retryFirst, retryMax),
	}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func (f *follower) run(ctx context.Context) error {
	f.relist(metrics.DiscoveryStart, 0)
	f.audits.Reset(f.auditAfter())
	defer func() {
		for _, t := range []*time.Timer{f.wake, f.quiet, f.audits} {
			t.Stop()
		}
	}()
	for {
		err := f.list(ctx)
		if err == nil {
			err = f.watch(ctx)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		cause := f.causeOf(err)
		switch cause {
		case metrics.DiscoveryCompaction, metrics.DiscoveryAudit, metrics.DiscoveryRestored:
			// Others have the same reason at the same time.
			f.relist(cause, time.Duration(rand.Int64N(int64(f.e.limits.spread))))
			f.listing.otherHistory = cause == metrics.DiscoveryRestored
		case metrics.DiscoverySilence:
			if !f.worked {
				// Where no watch tells anything at all, the news has to come by another way.
				f.relist(cause, 0)
				break
			}
			fallthrough
		case metrics.DiscoveryWatchError:
			f.metrics.Resumed(cause)
		}
		f.unsure = true
		f.lost(err)
		if err := f.pause(ctx, err); err != nil {
			return err
		}
	}
}

func (f *follower) causeOf(err error) metrics.DiscoveryCause {
	switch {
	case f.listing != nil:
		return metrics.DiscoveryListError
	case errors.Is(err, rpctypes.ErrCompacted):
		return metrics.DiscoveryCompaction
	case errors.Is(err, errSilent):
		return metrics.DiscoverySilence
	case errors.Is(err, errDiverged):
		return metrics.DiscoveryAudit
	case errors.Is(err, errRestored):
		return metrics.DiscoveryRestored
	default:
		return metrics.DiscoveryWatchError
	}
}

// pause waits before the next attempt: not at all after a watch that worked, and where there was no connection, no
// longer than until there is one.
func (f *follower) pause(ctx context.Context, err error) error {
	if f.worked {
		f.worked = false
		f.retry.Reset()
		return nil
	}
	wait := f.retry.Next()
	if _, ok := errors.AsType[*noConnectionError](err); ok {
		f.e.client.awaitConnection(ctx, wait)
	} else {
		sleep(ctx, wait)
	}
	return context.Cause(ctx)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// relist has the entries listed anew, after a time.
func (f *follower) relist(cause metrics.DiscoveryCause, after time.Duration) {
	f.listing = &listing{prefix: f.prefix, cause: cause, due: time.Now().Add(after)}
}

// list lists the entries where that is to be done, or goes on with it.
func (f *follower) list(ctx context.Context) error {
	l := f.listing
	if l == nil {
		return nil
	}
	sleep(ctx, time.Until(l.due))
	f.metrics.Relisted(l.cause)
	if err := f.e.list(ctx, l); err != nil {
		l.cause = metrics.DiscoveryListError
		return err
	}
	if l.otherHistory {
		f.table.replace(nil, time.Now()) // its revisions are of something else
	}
	for _, fault := range f.table.replace(l.kvs, time.Now()) {
		f.report(&fault)
	}
	// Set even if it is lower: then etcd was restored from a backup.
	f.revision, f.header = l.revision, l.header
	f.listing, f.unsure, f.verified, f.behind = nil, false, 0, time.Time{}
	f.asOf = time.Now()
	f.confirm(f.asOf)
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
	f.answers, f.asking = make(chan func() error, 1), false
	var opening sync.WaitGroup
	defer f.askers.Wait()
	defer opening.Wait()
	defer cancel()
	defer f.settle()

	// From the table's own revision, whose events it knows how to ignore, rather than the one after: etcd tells
	// no progress to a watch (nor to others on its stream) that starts at a revision that has yet to come.
	opened := make(chan clientv3.WatchChan, 1)
	revision := f.revision
	opening.Go(func() { // ends with ctx at the latest
		opened <- s.watcher.Watch(ctx, f.prefix,
			clientv3.WithPrefix(), clientv3.WithRev(revision), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
	})
	var responses clientv3.WatchChan
	began := time.Now()
	f.verifySoon()
	for {
		select {
		case responses = <-opened:
			opened = nil
		case r, ok := <-responses:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := watchErr(r, ok); err != nil {
				f.asOf = s.lost()
				return f.e.blame(s, err)
			}
			if r.Created {
				began = time.Now()
				s.waiting.Store(true)
				f.doubt(r.Header)
				f.verifySoon()
				break
			}
			f.hear(s, r)
		case <-f.wake.C:
			f.refresh()
		case <-f.quiet.C:
			f.verify(ctx, s, began)
		case <-f.audits.C:
			f.audit(ctx)
		case then := <-f.answers:
			f.asking = false
			if err := then(); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// doubt has the table verified where the member that has taken the watch is not where the one was that was listed at: the
// connection may have been lost in between. That member may only lag behind.
func (f *follower) doubt(h *pb.ResponseHeader) {
	if h.ClusterId != 0 { // which etcd's grpc-proxy does not tell
		f.unsure = f.unsure || h.ClusterId != f.header.ClusterId || h.RaftTerm != f.header.RaftTerm || h.Revision < f.revision
	}
}

// verifySoon has the table verified at once after a lost watch, and otherwise when the watch has been quiet.
func (f *follower) verifySoon() {
	if f.unsure {
		f.quiet.Reset(0)
	} else {
		f.quiet.Reset(f.e.limits.silence())
	}
}

func watchErr(r clientv3.WatchResponse, ok bool) error {
	if !ok {
		return errors.New("etcd's client closed the watch")
	}
	return r.Err()
}

// blame draws the consequences from a watch's having ended by err, and says where it was.
func (e *Etcd) blame(s *watchStream, err error) error {
	if !errors.Is(err, rpctypes.ErrCompacted) {
		e.retire(s) // for all one knows it is the stream's fault, such as its token's having expired
	}
	if unanswered(err) {
		e.client.moveOn(s.moved)
	}
	if _, ok := errors.AsType[rpctypes.EtcdError](err); !ok {
		err = errors.New(status.Convert(err).Message()) // without what is gRPC's
	}
	return fmt.Errorf("watch of etcd at %s: %w", e.client.Endpoints(), err)
}

func (f *follower) hear(s *watchStream, r clientv3.WatchResponse) {
	f.behind = time.Time{}
	if !f.unsure {
		f.quiet.Reset(f.e.limits.silence())
	}
	if r.IsProgressNotify() {
		s.noteProgress()
		f.e.contact.setMute(false, f.e.limits)
		f.e.delivers()
		f.reached(r.Header.Revision)
		return
	}
	now := time.Now()
	for _, event := range r.Events {
		f.apply(event, now)
	}
	if n := len(r.Events); n > 0 {
		f.verified = 0
		// Not the response's revision: it is ahead of the events while the watch is catching up.
		if last := r.Events[n-1].Kv.ModRevision; last > f.revision {
			f.reached(last)
		}
	}
	if now.Before(f.rested) {
		f.changed = true
		f.wake.Reset(f.rested.Sub(now))
		return
	}
	f.refresh()
}

// reached notes that the watch has told what happened up to a revision.
func (f *follower) reached(revision int64) {
	f.worked = true
	f.revision = max(f.revision, revision)
	f.asOf = time.Now()
	f.confirm(f.asOf)
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
