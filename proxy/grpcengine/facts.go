package grpcengine

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/stats"
)

// grpc-go tells some facts of a stream only to stats handlers: in which encoding it is compressed, and whether
// its status came from the other side or was made up by the transport.

// answer is the facts of a backend's answer.
type answer struct {
	compressed atomic.Pointer[string]
	complete   atomic.Bool // the backend's trailers have come
}

type answerKey struct{}

func (a *answer) encoding() string {
	if name := a.compressed.Load(); name != nil && *name != "" {
		return *name
	}
	return encoding.Identity
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
		a.compressed.Store(&s.Compression)
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
