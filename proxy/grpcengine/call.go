package grpcengine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // the one compression that crosses
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/retry"
	"github.com/lbproxy/lbproxy/traffic"
)

// listener is where a call came in.
type listener struct {
	engine  *Engine
	address string
	service string // that all its calls are for, if any
}

// relay is the interceptor through which every call goes, from its arrival to its end.
func (l *listener) relay(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(l.engine.forced, func() { cancel(context.Cause(l.engine.forced)) })()

	md, _ := metadata.FromIncomingContext(ctx)
	c := &call{metadata: md, authority: first(md[":authority"]), answer: answer{headers: make(chan struct{})}}
	c.ctx = context.WithValue(ctx, callKey{}, c)
	c.caller = &callerStream{ServerStream: stream, ctx: c.ctx}
	err := l.engine.router.Begin(&c.Call, &traffic.Request{
		Listener:  l.address,
		Bound:     l.service,
		Method:    info.FullMethod,
		Authority: c.authority,
		Service:   first(md[traffic.ServiceKey]),
		Version:   first(md[traffic.VersionKey]),
		Header:    md,
	}, time.Now())
	if err != nil {
		return c.fail(err)
	}
	return c.finish(handler(srv, c.caller))
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// call is one call in this engine. It is the connection that the library opens the backend's stream on.
type call struct {
	proxy.Call
	grpc.ClientConnInterface // only NewStream is ever called

	// Immutable:
	ctx       context.Context // the caller's, cancelled with a cause when the proxy itself ends the call
	metadata  metadata.MD
	authority string
	caller    *callerStream

	attempt *proxy.Attempt // nil while there is none
	answer  answer
	// status is what the backend's stream ended with: io.EOF or a status.
	status atomic.Pointer[error]
}

type callKey struct{}

// direct is the library's director.
func direct(ctx context.Context, _ string) (context.Context, grpc.ClientConnInterface, error) {
	c := ctx.Value(callKey{}).(*call)
	return metadata.NewOutgoingContext(ctx, c.forwarded()), c, nil
}

// forwarded is the metadata for the backend: the caller's, without what is meant for the proxy and what
// grpc-go sets by itself.
func (c *call) forwarded() metadata.MD {
	md := make(metadata.MD, len(c.metadata))
	for key, values := range c.metadata {
		switch {
		case strings.HasPrefix(key, ":"), strings.HasPrefix(key, traffic.MetadataPrefix):
		case key == "content-type", key == "user-agent", key == "grpc-accept-encoding":
		default:
			md[key] = values
		}
	}
	return md
}

// NewStream picks an endpoint and opens the call there; if that fails before anything was sent, perhaps at another.
func (c *call) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx = context.WithValue(ctx, answerKey{}, &c.answer)
	for {
		var err error
		if c.attempt, err = c.Pick(ctx); err != nil {
			return nil, err
		}
		stream, err := c.attempt.Endpoint().Conn().(*conn).cc.NewStream(ctx, desc, method, c.options()...)
		switch {
		case err == nil:
			return &backendStream{ClientStream: stream, call: c}, nil
		case ctx.Err() == nil && status.Code(err) != codes.Unavailable:
			return nil, refusal{err}
		case ctx.Err() != nil || c.Failed(c.attempt, retry.Failure{Replayable: true}) == retry.Fail:
			return nil, c.unsent(ctx, err)
		}
	}
}

// unsent is why a call fails that could not be sent to its endpoint, which it gives back.
func (c *call) unsent(ctx context.Context, cause error) error {
	addr, since := c.attempt.Endpoint().Addr(), c.attempt.Start()
	c.Unpick(c.attempt)
	c.attempt = nil
	if ctx.Err() != nil {
		return c.Interrupted(ctx, since, "waiting for a stream at "+addr)
	}
	return proxy.ErrBackendLost(c.Service(), addr, cause)
}

// refusal is a status that grpc-go makes instead of sending a call, because of what the backend has said that
// it takes: the caller would have got it from its own gRPC library.
type refusal struct{ error }

func (c *call) options() []grpc.CallOption {
	options := []grpc.CallOption{grpc.CallAuthority(c.authority)}
	if _, subtype, ok := strings.Cut(first(c.metadata["content-type"]), "application/grpc+"); ok {
		options = append(options, grpc.CallContentSubtype(subtype))
	}
	if name := encodingOf(c.ctx); encoding.GetCompressor(name) != nil {
		options = append(options, grpc.UseCompressor(name))
	}
	return options
}

// finish decides what the call came to, whatever the library made of it, and returns what the caller gets.
func (c *call) finish(err error) error {
	var own *proxy.Error
	if errors.As(err, &own) {
		return c.fail(own)
	}
	var refused refusal
	if errors.As(err, &refused) {
		return c.pass(refused.error)
	}
	if ended := c.status.Load(); ended != nil && c.answer.complete.Load() {
		return c.pass(*ended)
	}
	if c.ctx.Err() != nil {
		since, doing := c.doing()
		err := c.Interrupted(c.ctx, since, doing)
		if errors.As(err, &own) {
			return c.fail(own)
		}
		c.Cancel(time.Now())
		return status.FromContextError(err).Err()
	}
	if ended := c.status.Load(); ended != nil {
		return c.broken(*ended)
	}
	// The caller's stream failed and its context is about to say so.
	c.Cancel(time.Now())
	return err
}

// doing says what the call does, since when.
func (c *call) doing() (since time.Time, _ string) {
	if c.attempt == nil {
		return c.Start(), c.Awaits()
	}
	doing := "waiting for the answer of " + c.attempt.Endpoint().Addr()
	select {
	case <-c.answer.headers:
		doing = fmt.Sprintf("waiting for the rest of the answer of %s, which has begun", c.attempt.Endpoint().Addr())
	default:
	}
	return c.attempt.Start(), doing
}

// pass ends the call with the backend's status.
func (c *call) pass(ended error) error {
	if ended == io.EOF {
		ended = nil
	}
	c.attempt.Endpoint().Conn().(*conn).serves()
	c.End(status.Code(ended), time.Now())
	return ended
}

// broken ends a call whose stream ended without the backend's trailers. Where the backend reset the stream,
// grpc-go has translated the reason; that is the backend's answer as much as a status.
func (c *call) broken(cause error) error {
	addr := c.attempt.Endpoint().Addr()
	switch status.Code(cause) {
	case codes.Unavailable:
		return c.fail(proxy.ErrBackendLost(c.Service(), addr, cause))
	case codes.Internal:
		return c.fail(proxy.ErrBackendProtocol(c.Service(), addr, cause))
	}
	return c.pass(cause)
}

// fail ends the call with a status of the proxy's own.
func (c *call) fail(err *proxy.Error) error {
	c.Fail(err, time.Now())
	c.caller.SetTrailer(metadata.Pairs(proxy.ErrorTrailer, string(err.Reason)))
	return status.Error(err.Code, err.Message)
}

// callerStream is the caller's side as the library sees it.
type callerStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *callerStream) Context() context.Context { return s.ctx }

// SendHeader does nothing: the library calls it with the first message, and backendStream has done it when
// the headers came.
func (s *callerStream) SendHeader(metadata.MD) error { return nil }

// backendStream is the backend's side as the library sees it.
type backendStream struct {
	grpc.ClientStream
	call *call
	once sync.Once
}

// RecvMsg passes the headers on before it waits for a message, and keeps what the stream ended with.
func (s *backendStream) RecvMsg(m any) error {
	var err error
	s.once.Do(func() { err = s.relayHeader() })
	if err == nil {
		err = s.ClientStream.RecvMsg(m)
	}
	if err != nil {
		s.call.status.CompareAndSwap(nil, &err)
	}
	return err
}

// relayHeader waits for the response headers and sends them to the caller. A response without any
// (Trailers-Only) stays one.
func (s *backendStream) relayHeader() error {
	md, err := s.Header()
	if err != nil || md == nil {
		return err
	}
	c := s.call
	name, err := c.answer.encoding(s.Context())
	if err != nil {
		return err
	}
	// Left alone, grpc-go answers in the encoding of the request.
	if name != encodingOf(c.ctx) {
		if err := c.answerIn(name); err != nil {
			return err
		}
	}
	return c.caller.ServerStream.SendHeader(md)
}

// answerIn sets the encoding of the messages to the caller: the backend's, or none where the backend uses none
// or the caller does not accept it.
func (c *call) answerIn(name string) error {
	if name != "" && grpc.SetSendCompressor(c.ctx, name) == nil {
		return nil
	}
	return grpc.SetSendCompressor(c.ctx, encoding.Identity)
}
