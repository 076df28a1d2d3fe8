package discovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
)

var (
	// errDiverged is why a watch is given up whose state is not the registry's.
	errDiverged = errors.New("audit found the watched state different from the registry")
	// errRestored is why what is known of etcd's history is given up.
	errRestored = errors.New("etcd is not where it was: it seems to have been restored from a backup")
)

// verify asks etcd itself whether the table is right, because the watch is new or has told nothing for some time, not
// even its progress. A quiet watch is given up only when etcd has had news for some time that it has not told: while
// etcd is overloaded, and behind some proxies always, watches are well and there is no progress to be heard of.
func (f *follower) verify(ctx context.Context, s *watchStream, began time.Time) {
	f.quiet.Reset(f.e.quietFor(s))
	since, revision := f.asOf, f.revision
	asked := f.ask(func() func() error {
		g, err := f.e.glance(ctx, since)
		return func() error {
			switch told := f.asOf.After(since) && !f.unsure; { // by the watch, meanwhile
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case err != nil:
				if !told {
					f.unverified(err)
				}
				return nil
			case f.restored(g.header, revision):
				return errRestored
			case !told:
				f.glanced(ctx, s, began, g)
			}
			return nil
		}
	})
	if !asked {
		f.quiet.Reset(f.e.limits.answer)
	}
}

// glanced draws the conclusions from where etcd is.
func (f *follower) glanced(ctx context.Context, s *watchStream, began time.Time, g *glance) {
	f.unsure = false
	if s.mute() {
		f.e.contact.setMute(true, f.e.limits)
	}
	switch {
	case g.header.Revision <= max(f.revision, f.verified):
		f.e.delivers()
		f.confirm(g.at)
	case time.Since(began) < f.e.limits.silence():
		// It has yet to tell what has happened meanwhile.
		f.auditSoon()
	default:
		f.compare(ctx, s, g.header)
	}
}

// ask has read ask etcd something beside the watch, whose news must not wait for the answer. What read returns is done
// with the answer by the follower's own goroutine. It is false while another question is open.
func (f *follower) ask(read func() (then func() error)) bool {
	if f.asking {
		return false
	}
	f.asking = true
	f.askers.Go(func() { f.answers <- read() }) // ends with the watch, which has room for one answer
	return true
}

// unverified notes that etcd could not be asked. It is asked again soon, perhaps another member.
func (f *follower) unverified(err error) {
	f.asOf = time.Now()
	f.quiet.Reset(vary(f.e.limits.answer))
	f.lost(err)
}

// compare reads what the registry comes to now. Header is etcd's from before.
func (f *follower) compare(ctx context.Context, s *watchStream, header *pb.ResponseHeader) {
	at := time.Now()
	f.ask(func() func() error {
		now, err := f.e.digest(ctx, f.prefix, 0)
		return func() error {
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case f.asOf.After(at): // the watch has told something meanwhile
			case err != nil:
				f.unverified(err)
			case now == f.table.digest():
				f.behind, f.verified = time.Time{}, header.Revision
				f.e.delivers()
				f.confirm(at)
			case f.behind.IsZero():
				f.behind = at
				f.quiet.Reset(f.e.grace())
			case at.Sub(f.behind) >= f.e.grace():
				f.e.abandon(s)
				return errSilent
			}
			return nil
		}
	})
}

// restored says that h, which is from after all that the table held at revision, cannot be of the same history. It was
// read from a majority of the members: what it tells does not lag behind what any of them has told before.
func (f *follower) restored(h *pb.ResponseHeader, revision int64) bool {
	before := f.header
	f.header = h
	return h.ClusterId != before.ClusterId || h.RaftTerm < before.RaftTerm || h.Revision < revision
}

// audit compares the table with the registry at the table's own revision, so that neither is ahead.
func (f *follower) audit(ctx context.Context) {
	f.audits.Reset(f.auditAfter())
	revision, known := f.revision, f.table.digest()
	asked := f.ask(func() func() error {
		then, err := f.e.digest(ctx, f.prefix, revision)
		return func() error { return f.audited(revision, known, then, err) }
	})
	if !asked {
		f.audits.Reset(f.e.limits.answer)
		return
	}
	f.metrics.Audited()
}

func (f *follower) audited(revision int64, known, then digest, err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrFutureRev):
		return errRestored
	case err != nil:
		// Compacted, or etcd is busy: whether the watch is well is for verify to say.
		f.log.Debug("audit could not read the registry", zap.Int64("revision", revision), zap.Error(err))
		return nil
	case then == known:
		return nil
	}
	f.metrics.Diverged()
	return fmt.Errorf("%w at revision %d: %d entries, the newest of revision %d, instead of %d and %d",
		errDiverged, revision, known.count, known.newest, then.count, then.newest)
}

// auditAfter varies, so that what started together is not audited together.
func (f *follower) auditAfter() time.Duration { return vary(f.e.limits.audit) }

// auditSoon has the table audited within a minute or so, each service and each process at a time of its own.
func (f *follower) auditSoon() {
	f.audits.Reset(time.Duration(rand.Int64N(int64(f.e.limits.resumedAudit))))
}

// vary keeps processes that do something in the same intervals from doing it at the same time.
func vary(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// quietFor is how long a watch may be quiet before etcd is asked. A stream that never tells its progress is no worse
// than others, and every one of its services would ask.
func (e *Etcd) quietFor(s *watchStream) time.Duration {
	if s.mute() {
		return s.every
	}
	return e.limits.silence()
}

// grace is how long etcd may have news that a watch does not tell. It doubles with each stream that was given up for
// it, because that helps nothing where etcd is overloaded.
func (e *Etcd) grace() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.limits.answer << min(e.abandoned, 4)
}

// delivers notes that what has happened is told.
func (e *Etcd) delivers() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.abandoned = 0
}
