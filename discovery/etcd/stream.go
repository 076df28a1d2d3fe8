package etcd

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errSilent ends a stream that does not tell what has happened.
var errSilent = errors.New("etcd's watch does not tell what has happened")

// A watchStream is one stream of watches from etcd, which many prefixes share: etcd's answer to a request for progress
// goes to all watches of a stream, so one request does for all. It lives as long as its connection.
type watchStream struct {
	// Immutable:
	watcher clientv3.Watcher
	limits  Limits
	ctx     context.Context
	end     context.CancelCauseFunc
	asker   sync.WaitGroup
	moved   int           // of the client, when the stream was made; see Client.moveOn
	every   time.Duration // how often its watches are verified if it is mute; at the same time, so that one glance at etcd does for all

	opened   atomic.Pointer[time.Time] // when etcd took it; nil before
	answered atomic.Pointer[time.Time] // when etcd last told its progress; nil if it never has
	broken   atomic.Pointer[time.Time] // when it ended by itself; nil while it has not
	waiting  atomic.Bool               // a watch has not heard of progress yet

	watchers int // Mux.mu protects it
}

// acquire returns the current watch stream; release it when the watch ends.
func (m *Mux) acquire(ctx context.Context) (*watchStream, error) {
	client, err := m.client.connect(ctx)
	if err != nil {
		return nil, err
	}
	moved := m.client.moved()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stream == nil {
		m.stream = newWatchStream(client, m.Limits, moved)
	}
	m.stream.watchers++
	return m.stream, nil
}

// release gives the stream back. The last to do so closes it.
func (m *Mux) release(s *watchStream) {
	m.mu.Lock()
	s.watchers--
	last := s.watchers == 0
	if last && m.stream == s {
		m.stream = nil
	}
	m.mu.Unlock()
	if last {
		s.close()
	}
}

// retire makes s no longer the current stream. Its watches stay.
func (m *Mux) retire(s *watchStream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stream == s {
		m.stream = nil
	}
}

// fail ends s for all its watches: while only some ended, the client would keep a dead stream alive for the others.
func (m *Mux) fail(s *watchStream) {
	m.mu.Lock()
	if m.stream == s {
		m.stream = nil
		m.failed++
	}
	m.mu.Unlock()
	s.end(errSilent)
}

func newWatchStream(client *clientv3.Client, limits Limits, moved int) *watchStream {
	s := &watchStream{
		watcher: clientv3.NewWatcher(client), limits: limits, moved: moved, every: vary(2 * limits.silence()),
	}
	// A watcher of its own is a stream of its own, provided that all its contexts carry the same metadata.
	ctx := context.WithValue(context.Background(), streamKey{}, s)
	s.ctx, s.end = context.WithCancelCause(clientv3.WithRequireLeader(ctx))
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

// askForProgress asks when a watch has begun, and then every limits.Progress. It repeats itself until etcd answers,
// which it does not while one of the stream's watches is catching up; but rarely after a while, as a proxy may never
// answer.
func (s *watchStream) askForProgress() {
	tick := time.NewTicker(s.limits.Answer / 5)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		if !s.progressIsDue() {
			continue
		}
		// Blocks while there is no connection. The watches notice themselves what its error would tell.
		ctx, cancel := context.WithTimeout(s.ctx, s.limits.Answer)
		_ = s.watcher.RequestProgress(ctx)
		cancel()
		if s.mute() {
			tick.Reset(s.limits.MuteAsk)
		} else {
			tick.Reset(s.limits.Answer / 5)
		}
	}
}

func (s *watchStream) progressIsDue() bool {
	if s.opened.Load() == nil {
		return false
	}
	at := s.answered.Load()
	return s.waiting.Load() || at == nil || time.Since(*at) >= s.limits.Progress
}

func (s *watchStream) noteProgress() {
	s.waiting.Store(false)
	s.answered.Store(new(time.Now()))
}

// lost is when the stream broke, the same moment for all its watches, or now if only one watch ended.
func (s *watchStream) lost() time.Time {
	if at := s.broken.Load(); at != nil {
		return *at
	}
	return time.Now()
}

// mute reports whether etcd has had time to tell its progress on this stream and never has.
func (s *watchStream) mute() bool {
	opened := s.opened.Load()
	return s.answered.Load() == nil && opened != nil && time.Since(*opened) >= s.limits.silence()
}

type streamKey struct{}

// reportEnd makes the client end our streams when they break. By itself it would open new ones and watch from the
// revision after the last it has seen. In a quiet registry that is yet to come, and while a stream has a watch that
// starts in the future, etcd tells none of its watches its progress.
func reportEnd(
	ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, next grpc.Streamer,
	opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := next(ctx, desc, conn, method, opts...)
	s, ours := ctx.Value(streamKey{}).(*watchStream)
	if err != nil || !ours {
		return stream, err
	}
	s.opened.Store(new(time.Now()))
	return reportingStream{stream, s}, nil
}

type reportingStream struct {
	grpc.ClientStream
	of *watchStream
}

func (s reportingStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil {
		s.of.broken.Store(new(time.Now()))
	}
	if code := status.Code(err); code == codes.Unavailable || code == codes.Internal {
		return status.Error(codes.Aborted, explanation(status.Convert(err).Message()))
	}
	return err
}
