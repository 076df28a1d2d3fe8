package e2e

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"

	"github.com/lbproxy/lbproxy/configs"
)

// An exchange is one call: what its caller and its backend do. Each side keeps a record of all that it can see.
type exchange struct {
	name    string
	desc    *grpc.StreamDesc // nil: streams both ways
	sends   metadata.MD      // by the caller
	proxied metadata.MD      // what the caller sends in addition where there is a proxy
	options []grpc.CallOption
	caller  func(*party) // nil: says that nothing comes
	backend func(*party) error
}

// party is one side of an exchange.
type party struct {
	t      *testing.T
	stream interface {
		Context() context.Context
		SendMsg(any) error
		RecvMsg(any) error
	}
	mu  sync.Mutex // protects:
	saw []string
}

func (p *party) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.saw = append(p.saw, fmt.Sprintf(format, args...))
}

func (p *party) noteMetadata(what string, md metadata.MD) {
	for _, key := range slices.Sorted(maps.Keys(md)) {
		p.note("%s %s = %q", what, key, md[key])
	}
}

// noteDeadline notes how much of the time that every caller gives is left. It is for backends.
func (p *party) noteDeadline() {
	deadline, ok := p.stream.Context().Deadline()
	left := time.Until(deadline)
	p.note("deadline: %t, less than what the caller gave: %t, but hardly: %t", ok, left < patience, left > patience-patience/4)
}

// send sends a message. That the call may have ended is for recv to see.
func (p *party) send(message string) {
	p.t.Helper()
	raw := []byte(message)
	if err := p.stream.SendMsg(&raw); err != nil && !errors.Is(err, io.EOF) {
		p.note("cannot send: %v", err)
	}
}

// recv waits for a message, or for the end of them.
func (p *party) recv() error {
	var raw []byte
	err := p.stream.RecvMsg(&raw)
	if err != nil {
		p.note("no more messages: %v", err)
		return err
	}
	p.note("message %s", shown(raw))
	return nil
}

// shown is a message as it is noted: long ones by their length and checksum.
func shown(message []byte) string {
	if len(message) > 300 {
		return fmt.Sprintf("of %d bytes, checksum %08x", len(message), crc32.ChecksumIEEE(message))
	}
	return strconv.Quote(string(message))
}

// recvAll is recv until there are no more.
func (p *party) recvAll() {
	for p.recv() == nil {
	}
}

// header waits for the response headers. It is for callers.
func (p *party) header() {
	md, err := p.stream.(grpc.ClientStream).Header()
	p.note("headers are here, error %v", err)
	p.noteMetadata("header", md)
}

// closeSend says that no more messages come. It is for callers.
func (p *party) closeSend() {
	if err := p.stream.(grpc.ClientStream).CloseSend(); err != nil {
		p.note("cannot close: %v", err)
	}
}

// The backend's.
func (p *party) sendHeader(kv ...string) {
	if err := p.stream.(grpc.ServerStream).SendHeader(metadata.Pairs(kv...)); err != nil {
		p.note("cannot send headers: %v", err)
	}
}

func (p *party) setHeader(kv ...string) {
	if err := p.stream.(grpc.ServerStream).SetHeader(metadata.Pairs(kv...)); err != nil {
		p.note("cannot set headers: %v", err)
	}
}

func (p *party) setTrailer(kv ...string) {
	p.stream.(grpc.ServerStream).SetTrailer(metadata.Pairs(kv...))
}

// stage is where exchanges take place: a backend that plays its part in them, and ways to it.
type stage struct {
	t *testing.T
	*judge
	backend *backend
	proxy   *lbproxy
	direct  *grpc.ClientConn
	proxied *grpc.ClientConn

	mu       sync.Mutex // protects:
	playing  func(*party) error
	backends chan *party // what the backend of the present exchange saw
}

// newStage makes a stage on which callers call the backend "hello", directly and through a proxy.
func newStage(t *testing.T, w *world, change ...func(*configs.Config)) *stage {
	s := &stage{t: t, judge: newJudge(w.engine), backends: make(chan *party, 100)} // more than there are exchanges at a time
	in := w.startInstance("hello", "1.0.0", 1, func(b *backend) {
		b.options = []grpc.ServerOption{
			grpc.UnknownServiceHandler(s.play), grpc.ForceServerCodecV2(rawCodec{}), grpc.StatsHandler(encodings{}),
			grpc.MaxRecvMsgSize(128 << 20), grpc.WaitForHandlers(true),
		}
	})
	s.backend = in.backend
	s.proxy = w.startProxy(append(change, listed("hello"))...)
	s.proxy.awaitReady("hello", 1)
	s.direct = s.dial(in.addr)
	s.proxied = s.dial(s.proxy.Addrs()[0])
	return s
}

func (s *stage) dial(addr string) *grpc.ClientConn {
	return dial(s.t, "passthrough:///"+addr, grpc.WithAuthority("hello"), grpc.WithStatsHandler(encodings{}), grpc.WithUserAgent("e2e"),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(128<<20)))
}

// set sets what the backend does in the exchanges to come.
func (s *stage) set(backend func(*party) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.playing = backend
}

// play is the backend's side of an exchange.
func (s *stage) play(_ any, stream grpc.ServerStream) error {
	p := &party{t: s.t, stream: stream}
	md, _ := metadata.FromIncomingContext(stream.Context())
	p.noteMetadata("metadata", md)
	p.noteDeadline()
	p.note("encoding %q", *encodingOf(stream.Context()))
	s.mu.Lock()
	play := s.playing
	s.mu.Unlock()
	err := play(p)
	s.backends <- p
	return err
}

// perform performs an exchange on one of the ways and returns what both sides saw.
func (s *stage) perform(t *testing.T, e exchange, way *grpc.ClientConn) (caller, backend []string) {
	t.Helper()
	s.set(e.backend)
	md := e.sends
	if way == s.proxied {
		md = metadata.Join(md, e.proxied)
	}
	ctx := metadata.NewOutgoingContext(s.context(t), md)
	if e.desc == nil {
		e.desc = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	}
	stream, err := way.NewStream(ctx, e.desc, "/e2e.Exchange/Perform", e.options...)
	if err != nil {
		t.Fatal(err)
	}
	p := &party{t: t, stream: stream}
	if e.caller != nil {
		e.caller(p)
	}
	p.closeSend()
	p.recvAll()
	p.header()
	p.note("encoding %q", *encodingOf(ctx))
	p.noteMetadata("trailer", stream.Trailer())
	return p.saw, (<-s.backends).saw
}

// context is what a caller performs under.
func (s *stage) context(t *testing.T) context.Context {
	return context.WithValue(within(t), encodingKey{}, new(string))
}

// compare performs an exchange on both ways and compares. It returns what there was to see.
func (s *stage) compare(t *testing.T, e exchange) (caller, backend []string) {
	t.Helper()
	wantCaller, wantBackend := s.perform(t, e, s.direct)
	caller, backend = s.perform(t, e, s.proxied)
	s.mustAgree(t, e.name, atCaller, caller, wantCaller)
	s.mustAgree(t, e.name, atBackend, backend, wantBackend)
	return caller, backend
}

// mustSee fails the test unless lines that begin so were seen, in this order: a comparison of nothing with
// nothing shows nothing.
func mustSee(t *testing.T, who string, saw []string, lines ...string) {
	t.Helper()
	left := saw
	for _, line := range lines {
		i := slices.IndexFunc(left, func(s string) bool { return strings.HasPrefix(s, line) })
		if i < 0 {
			t.Fatalf("%s does not see %q, or not in its place:\n%s", who, line, strings.Join(saw, "\n"))
		}
		left = left[i+1:]
	}
}

// rawCodec passes messages as they are.
type rawCodec struct{ name string }

func (c rawCodec) Name() string { return c.name }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// encodings keeps in a call's context in which encoding the other side's messages are.
type encodings struct{}

type encodingKey struct{}

func encodingOf(ctx context.Context) *string { return ctx.Value(encodingKey{}).(*string) }

func (encodings) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	if ctx.Value(encodingKey{}) != nil {
		return ctx
	}
	return context.WithValue(ctx, encodingKey{}, new(string))
}

func (encodings) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if h, ok := s.(*stats.InHeader); ok {
		*encodingOf(ctx) = h.Compression
	}
}

func (encodings) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (encodings) HandleConn(context.Context, stats.ConnStats)                       {}
