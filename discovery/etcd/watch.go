package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/status"
)

// watch follows the prefix from the known revision on, and returns when the watch is lost or no longer to be trusted.
func (f *follower) watch(ctx context.Context) error {
	s, err := f.mux.acquire(ctx)
	if err != nil {
		return err
	}
	defer f.mux.release(s)
	ctx, cancel := s.context(ctx)
	f.answers, f.asking = make(chan func() error, 1), false
	var opening sync.WaitGroup
	defer f.askers.Wait()
	defer opening.Wait()
	defer cancel()
	defer f.flush()

	// From the known revision, whose events are ignored as old news, and not from the one after: to a watch that starts
	// at a revision yet to come etcd tells no progress, nor to others on its stream.
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
				return f.mux.ended(s, err)
			}
			if r.Created {
				began = time.Now()
				s.waiting.Store(true)
				f.compareMembers(r.Header)
				f.verifySoon()
				break
			}
			f.onResponse(s, r)
		case <-f.wake.C:
			f.commit()
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

// compareMembers compares the member that has taken the watch with the one that was listed at: in between the
// connection may have been lost. A difference is a reason for doubt only, as a member may lag behind.
func (f *follower) compareMembers(h *pb.ResponseHeader) {
	told := h.ClusterId != 0 // etcd's grpc-proxy tells nothing
	if told && (h.ClusterId != f.header.ClusterId || h.RaftTerm != f.header.RaftTerm || h.Revision < f.revision) {
		f.doubt()
	}
}

// verifySoon sets when what is known is verified: at once after a lost watch, otherwise once the watch has been quiet.
func (f *follower) verifySoon() {
	if f.unsure {
		f.quiet.Reset(0)
	} else {
		f.quiet.Reset(f.mux.Limits.silence())
	}
}

func watchErr(r clientv3.WatchResponse, ok bool) error {
	if !ok {
		return errors.New("etcd's client closed the watch")
	}
	return r.Err()
}

// ended decides what else has to go because a watch ended by err, and adds to err where it was.
func (m *Mux) ended(s *watchStream, err error) error {
	if !errors.Is(err, rpctypes.ErrCompacted) {
		m.retire(s) // it may be the stream's fault, as when its token has expired
	}
	if unanswered(err) {
		m.client.moveOn(s.moved)
	}
	if _, ok := errors.AsType[rpctypes.EtcdError](err); !ok {
		err = errors.New(status.Convert(err).Message()) // without what is gRPC's
	}
	return fmt.Errorf("watch of etcd at %s: %w", m.client.Endpoints(), err)
}

func (f *follower) onResponse(s *watchStream, r clientv3.WatchResponse) {
	f.behind = time.Time{}
	if !f.unsure {
		f.quiet.Reset(f.mux.Limits.silence())
	}
	if r.IsProgressNotify() {
		s.noteProgress()
		f.mux.setMute(false)
		f.mux.delivers()
		f.markAlive(r.Header.Revision)
		return
	}
	for _, event := range r.Events {
		f.apply(event)
	}
	if n := len(r.Events); n > 0 {
		f.verified = 0
		// Not the response's revision: it is ahead of the events while the watch is catching up.
		if last := r.Events[n-1].Kv.ModRevision; last > f.revision {
			f.markAlive(last)
		}
	}
	if now := time.Now(); now.Before(f.notBefore) {
		f.uncommitted = true
		f.wake.Reset(f.notBefore.Sub(now))
		return
	}
	f.commit()
}

// markAlive notes that the watch has told what happened up to a revision.
func (f *follower) markAlive(revision int64) {
	f.alive = true
	f.revision = max(f.revision, revision)
	f.asOf = time.Now()
	f.confirm(f.asOf)
}

func (f *follower) apply(event *clientv3.Event) {
	if event.Type == mvccpb.Event_DELETE {
		if key := string(event.Kv.Key); f.known.delete(key, event.Kv.ModRevision) {
			f.handler.Delete(key)
		}
		return
	}
	if e := entryOf(event.Kv); f.known.put(e) {
		f.handler.Put(e)
	}
}
