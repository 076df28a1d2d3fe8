package discovery

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// errSilent is why a stream is given up whose server neither sends nor answers.
var errSilent = errors.New("etcd has gone silent")

// A watchStream is one stream of watches from etcd, which the watches of many services ride on: etcd's answer
// to a request for progress goes to all of a stream's watches, so it is asked once for all of them.
type watchStream struct {
	// Immutable:
	watcher clientv3.Watcher
	limits  etcdLimits
	ctx     context.Context
	end     context.CancelCauseFunc
	asker   sync.WaitGroup

	progressed atomic.Pointer[time.Time] // when etcd last told its progress

	riders int // Etcd.mu protects it
}

// board takes a seat on the stream of the day. Whoever boards leaves.
func (e *Etcd) board(ctx context.Context) (*watchStream, error) {
	client, err := e.client.get(ctx)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stream == nil {
		e.stream = newWatchStream(client, e.limits)
	}
	e.stream.riders++
	return e.stream, nil
}

// leave gives the seat back. The last to leave closes the stream.
func (e *Etcd) leave(s *watchStream) {
	e.mu.Lock()
	s.riders--
	last := s.riders == 0
	if last && e.stream == s {
		e.stream = nil
	}
	e.mu.Unlock()
	if last {
		s.close()
	}
}

// retire lets nobody board s any more. Those who ride stay.
func (e *Etcd) retire(s *watchStream) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stream == s {
		e.stream = nil
	}
}

// abandon ends s for everybody who rides it: while only some left, the client would keep a dead stream alive
// for the others.
func (e *Etcd) abandon(s *watchStream) {
	e.retire(s)
	s.end(errSilent)
}

func newWatchStream(client *clientv3.Client, limits etcdLimits) *watchStream {
	// A watcher of its own is a stream of its own, provided that all its contexts carry the same metadata.
	ctx, end := context.WithCancelCause(clientv3.WithRequireLeader(context.Background()))
	s := &watchStream{watcher: clientv3.NewWatcher(client), limits: limits, ctx: ctx, end: end}
	s.noteProgress()
	s.asker.Go(s.askForProgress) // ends with ctx, see close
	return s
}

func (s *watchStream) close() {
	s.end(nil)
	s.asker.Wait()
	s.watcher.Close() // what it returns is that it was closed
}

// context returns a context for one watch. It ends with ctx, and with the stream.
func (s *watchStream) context(ctx context.Context) (context.Context, context.CancelFunc) {
	// It comes from the stream's context, not from ctx, since that may carry metadata.
	watch, end := context.WithCancelCause(s.ctx)
	stop := context.AfterFunc(ctx, func() { end(context.Cause(ctx)) })
	return watch, func() {
		stop()
		end(nil)
	}
}

func (s *watchStream) noteProgress() {
	now := time.Now()
	s.progressed.Store(&now)
}

// askForProgress asks again until etcd answers, because it keeps quiet while one of the stream's watches has
// yet to catch up.
func (s *watchStream) askForProgress() {
	tick := time.NewTicker(s.limits.answer / 5)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		if time.Since(*s.progressed.Load()) < s.limits.progress {
			continue
		}
		// Blocks while the client is busy reconnecting. Its error is not news: the watches get it, or silence.
		ctx, cancel := context.WithTimeout(s.ctx, s.limits.answer)
		_ = s.watcher.RequestProgress(ctx)
		cancel()
	}
}
