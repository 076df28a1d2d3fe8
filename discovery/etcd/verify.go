package etcd

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
	// errDiverged ends a watch that has not told what stands in etcd.
	errDiverged = errors.New("audit found the watched state different from the registry")
	// errRestored means that etcd's history is another than the one that is known.
	errRestored = errors.New("etcd is not where it was: it seems to have been restored from a backup")
)

// verify asks etcd by a read whether what is known is right, because the watch is new or has told nothing for some
// time, not even progress. A quiet watch is given up only if etcd has had news for some time that it did not tell:
// overloaded members, and some proxies always, tell no progress on watches that are fine.
func (f *follower) verify(ctx context.Context, s *watchStream, began time.Time) {
	f.quiet.Reset(f.mux.quietFor(s))
	since, revision := f.asOf, f.revision
	asked := f.ask(func() func() error {
		g, err := f.mux.glance(ctx, since)
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
		f.quiet.Reset(f.mux.Limits.Answer)
	}
}

// glanced decides what etcd's revision means for the watch.
func (f *follower) glanced(ctx context.Context, s *watchStream, began time.Time, g *glance) {
	if f.unsure && g.header.Revision > f.sureTo {
		f.auditSoon() // of what has happened meanwhile, whether the new watch has told it already or not
	}
	f.unsure = false
	if s.mute() {
		f.mux.setMute(true)
	}
	switch {
	case g.header.Revision <= max(f.revision, f.verified):
		f.mux.delivers()
		f.confirm(g.at)
	case time.Since(began) < f.mux.Limits.silence(): // it has yet to tell what has happened meanwhile
	default:
		f.compare(ctx, s, g.header)
	}
}

// ask runs read beside the watch, whose news must not wait for it. The function that read returns is called by the
// follower's goroutine. It returns false, and does nothing, while another read is under way.
func (f *follower) ask(read func() (then func() error)) bool {
	if f.asking {
		return false
	}
	f.asking = true
	f.askers.Go(func() { f.answers <- read() }) // ends with the watch, which has room for one answer
	return true
}

// unverified notes that etcd could not be asked. It will be asked again soon, perhaps at another member.
func (f *follower) unverified(err error) {
	f.asOf = time.Now()
	f.quiet.Reset(vary(f.mux.Limits.Answer))
	f.handler.Lost(err)
}

// compare reads the keys' digest. Header is etcd's from before that.
func (f *follower) compare(ctx context.Context, s *watchStream, header *pb.ResponseHeader) {
	at := time.Now()
	f.ask(func() func() error {
		now, err := f.mux.digest(ctx, f.prefix, 0)
		return func() error {
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case f.asOf.After(at): // the watch has told something meanwhile
			case err != nil:
				f.unverified(err)
			case now == f.known.digest():
				f.behind, f.verified = time.Time{}, header.Revision
				f.mux.delivers()
				f.confirm(at)
			case f.behind.IsZero():
				f.behind = at
				f.quiet.Reset(f.mux.grace())
			case at.Sub(f.behind) >= f.mux.grace():
				f.mux.fail(s)
				return errSilent
			}
			return nil
		}
	})
}

// restored reports whether h, which was read after all that was known at revision, belongs to another history. It comes
// from a majority of the members, so it cannot lag behind what any of them has told before.
func (f *follower) restored(h *pb.ResponseHeader, revision int64) bool {
	before := f.header
	f.header = h
	return h.ClusterId != before.ClusterId || h.RaftTerm < before.RaftTerm || h.Revision < revision
}

// audit compares what is known with etcd at the known revision, so that neither is ahead.
func (f *follower) audit(ctx context.Context) {
	f.audits.Reset(f.auditAfter())
	revision, known := f.revision, f.known.digest()
	asked := f.ask(func() func() error {
		then, err := f.mux.digest(ctx, f.prefix, revision)
		return func() error { return f.audited(revision, known, then, err) }
	})
	if !asked {
		f.audits.Reset(f.mux.Limits.Answer)
		return
	}
	f.mux.metrics.Audited()
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
	f.mux.metrics.Diverged()
	return fmt.Errorf("%w at revision %d: %d entries, the newest of revision %d, instead of %d and %d",
		errDiverged, revision, known.count, known.newest, then.count, then.newest)
}

// auditAfter varies, so that watches that started together are not audited together.
func (f *follower) auditAfter() time.Duration { return vary(f.mux.Limits.Audit) }

// auditSoon moves the audit to a random time within the next minute, so that prefixes and processes do not audit
// together.
func (f *follower) auditSoon() {
	f.audits.Reset(time.Duration(rand.Int64N(int64(f.mux.Limits.ResumedAudit))))
}

// vary keeps processes with the same intervals from acting at the same time.
func vary(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// quietFor is how long a watch may be quiet before etcd is asked. It is longer on a mute stream, which is no worse than
// others, and each of whose watches would ask.
func (m *Mux) quietFor(s *watchStream) time.Duration {
	if s.mute() {
		return s.every
	}
	return m.Limits.silence()
}

// grace is how long a watch may not tell news that etcd has. It doubles with each stream that was given up for that,
// which does not help where etcd is overloaded.
func (m *Mux) grace() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Limits.Answer << min(m.failed, 4)
}

// delivers notes that a watch tells what happens.
func (m *Mux) delivers() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failed = 0
}
