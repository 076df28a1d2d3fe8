package grpcengine

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/stats"
)

// grpc-go tells some facts of a stream only to stats handlers: in which encoding it is compressed, and whether
// its status came from the other side or was made up by the transport.

// answer is the facts of a backend's answer.
type answer struct {
	once       sync.Once     // a stream that grpc-go opened anew may get headers twice
	headers    chan struct{} // closed when the headers have come
	compressed string        // the encoding of the messages, empty for none; written before headers is closed
	complete   atomic.Bool   // the backend's trailers have come
}

type answerKey struct{}

// encoding waits for the headers, which grpc-go tells of to a stats handler a moment later than to the stream,
// and returns the encoding of the messages after them; empty for none.
func (a *answer) encoding(ctx context.Context) (string, error) {
	select {
	case <-a.headers:
		return a.compressed, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// answerFacts fills in the answer in a call's context.
type answerFacts struct{ noConnFacts }

func (answerFacts) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (answerFacts) HandleRPC(ctx context.Context, s stats.RPCStats) {
	a, ok := ctx.Value(answerKey{}).(*answer)
	if !ok {
		return
	}
	switch s := s.(type) {
	case *stats.InHeader:
		a.once.Do(func() {
			a.compressed = s.Compression
			close(a.headers)
		})
	case *stats.InTrailer:
		a.complete.Store(true)
	}
}

// requestEncoding keeps in which encoding a caller's messages are compressed.
type requestEncoding struct{ noConnFacts }

type encodingKey struct{}

func (requestEncoding) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, encodingKey{}, new(string))
}

func (requestEncoding) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if h, ok := s.(*stats.InHeader); ok {
		*ctx.Value(encodingKey{}).(*string) = h.Compression
	}
}

// encodingOf is the encoding of a caller's messages; empty if there is none.
func encodingOf(ctx context.Context) string { return *ctx.Value(encodingKey{}).(*string) }

// noConnFacts is the half of a stats handler that is about connections.
type noConnFacts struct{}

func (noConnFacts) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (noConnFacts) HandleConn(context.Context, stats.ConnStats)                       {}
