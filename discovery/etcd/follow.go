// Package etcd decides how the keys below a prefix are followed, and how etcd is reached: over one connection to one of
// its members, on which one stream carries all watches. See docs/adr/0004-following-etcd.md.
//
// It knows keys and revisions, and leaves to each [Handler], such as package registry's, what the values mean.
package etcd

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/internal/backoff"
)

const (
	retryFirst = 100 * time.Millisecond
	retryMax   = 5 * time.Second

	// After each commit comes a pause of a multiple of the time it took, so that a storm of events, such as thousands
	// of leases that expire, leaves time for calls.
	pauseFactor = 9
	pauseMax    = 100 * time.Millisecond
)

// Follow tells the handler what stands below prefix: it lists the keys at one revision and watches from there. A lost
// watch is resumed where it was; the keys are listed again only where that is impossible. It retries for ever, and
// returns context.Cause(ctx) once ctx is done.
func (m *Mux) Follow(ctx context.Context, prefix string, handler Handler) error {
	f := &follower{
		mux: m, prefix: prefix, handler: handler, log: m.log.With(zap.String("prefix", prefix)),
		known: known{}, wake: stoppedTimer(), quiet: stoppedTimer(), audits: stoppedTimer(),
		retry: backoff.New(retryFirst, retryMax),
	}
	return f.run(ctx)
}

// A follower is the state of one Follow.
type follower struct {
	// Immutable:
	mux     *Mux
	prefix  string
	handler Handler
	log     *zap.Logger

	// Owned by run:
	known    known              // what the handler has been told
	revision int64              // of that
	header   *pb.ResponseHeader // of etcd's, the latest that has been compared with what is known
	listing  *listing           // what is to be listed before the next watch; nil if nothing is
	unsure   bool               // a watch was lost, and etcd has not been asked since whether its history is the same
	sureTo   int64              // the revision at which that was
	asOf     time.Time          // when what is known was last known to change, or the watch to be lost
	verified int64              // a revision at which etcd held just what is still known; 0 for none
	behind   time.Time          // since when etcd has news that the watch has not told; zero if it has none

	uncommitted bool        // the handler has been told something since its last commit
	notBefore   time.Time   // when the next commit may come
	wake        *time.Timer // for a commit that is due later
	quiet       *time.Timer // for a watch that has told nothing for some time
	audits      *time.Timer

	asking  bool              // etcd has been asked something and has not answered yet
	answers chan func() error // what is to be done with its answer; of the present watch
	askers  sync.WaitGroup

	retry *backoff.Backoff
	alive bool // the last watch has told something
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func (f *follower) run(ctx context.Context) error {
	f.relist(causeStart, 0)
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
		f.planRecovery(err)
		f.doubt()
		f.handler.Lost(err)
		if err := f.pause(ctx, err); err != nil {
			return err
		}
	}
}

// pause waits before the next attempt: not at all after a watch that was alive, and without a connection only until
// there is one.
func (f *follower) pause(ctx context.Context, err error) error {
	if f.alive {
		f.alive = false
		f.retry.Reset()
		return nil
	}
	wait := f.retry.Next()
	if _, ok := errors.AsType[*noConnectionError](err); ok {
		f.mux.client.awaitConnection(ctx, wait)
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

// list begins or continues the listing, if there is one.
func (f *follower) list(ctx context.Context) error {
	l := f.listing
	if l == nil {
		return nil
	}
	sleep(ctx, time.Until(l.due))
	f.mux.metrics.Relisted(string(l.cause))
	if err := f.mux.list(ctx, l); err != nil {
		l.cause = causeListError
		return err
	}
	if l.otherHistory {
		f.known.replace(nil, f.handler.Put, f.handler.Delete) // the revisions are of something else
	}
	f.known.replace(l.kvs, f.handler.Put, f.handler.Delete)
	// Set even if it is lower: then etcd was restored from a backup.
	f.revision, f.header = l.revision, l.header
	f.listing, f.unsure, f.verified, f.behind = nil, false, 0, time.Time{}
	f.asOf = time.Now()
	f.confirm(f.asOf)
	f.commit()
	return nil
}

// doubt notes that etcd's history may be another.
func (f *follower) doubt() {
	if !f.unsure {
		f.unsure, f.sureTo = true, f.revision
	}
}

// confirm passes on that etcd has confirmed what is known.
func (f *follower) confirm(at time.Time) { f.handler.Confirmed(max(f.revision, f.verified), at) }

// commit ends a batch of what the handler is told.
func (f *follower) commit() {
	start := time.Now()
	again := f.handler.Commit(f.revision)
	end := time.Now()
	f.uncommitted = false
	f.notBefore = end.Add(min(pauseFactor*end.Sub(start), pauseMax))
	f.wake.Stop()
	if !again.IsZero() {
		f.wake.Reset(again.Sub(end))
	}
}

// flush commits at the end of a watch what the pause has held back. Until the next watch nothing is due.
func (f *follower) flush() {
	f.wake.Stop()
	if f.uncommitted {
		f.commit()
		f.wake.Stop()
	}
}
