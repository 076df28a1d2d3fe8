package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// WatchResponse is etcd's answer as it is on the wire.
type WatchResponse = pb.WatchResponse

// RangeRequest is a client's read as it is on the wire.
type RangeRequest = pb.RangeRequest

// An Interceptor passes gRPC calls on to etcd and lets a test see and withhold etcd's answers to watches: the connection
// works, the watch does not. It lets a test see and delay reads, too.
type Interceptor struct {
	endpoint string
	etcd     *grpc.ClientConn

	mu      sync.Mutex // protects:
	streams int
	pass    func(stream int, r *WatchResponse) bool
	ranges  []*RangeRequest
	hold    func(ctx context.Context, r *RangeRequest)
}

// Everything passes all responses.
func Everything(int, *WatchResponse) bool { return true }

// Intercept starts an interceptor in front of target, a host:port. Pass is asked, one response at a time, whether a
// response to a watch may pass; streams count from 0, in the order in which they were opened.
func Intercept(t testing.TB, target string, pass func(stream int, r *WatchResponse) bool) *Interceptor {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	i := &Interceptor{endpoint: l.Addr().String(), etcd: conn, pass: pass}
	server := grpc.NewServer(grpc.UnknownServiceHandler(i.relay), grpc.ForceServerCodecV2(rawCodec{}))
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(l) }) // ends when the server is stopped
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		wg.Wait()
	})
	return i
}

// Endpoint is the host:port that stands for the target.
func (i *Interceptor) Endpoint() string { return i.endpoint }

// Streams is how many watch streams have been opened.
func (i *Interceptor) Streams() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.streams
}

// Ranges are the read requests so far.
func (i *Interceptor) Ranges() []*RangeRequest {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.ranges)
}

// Hold calls hold before each read request is passed on, from many goroutines. Ctx is the caller's.
func (i *Interceptor) Hold(hold func(ctx context.Context, r *RangeRequest)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.hold = hold
}

func (i *Interceptor) sees(ctx context.Context, m []byte) error {
	var r RangeRequest
	if err := proto.Unmarshal(m, &r); err != nil {
		return err
	}
	i.mu.Lock()
	i.ranges = append(i.ranges, &r)
	hold := i.hold
	i.mu.Unlock()
	if hold != nil {
		hold(ctx, &r)
	}
	return nil
}

func (i *Interceptor) relay(_ any, caller grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(caller)
	md, _ := metadata.FromIncomingContext(caller.Context())
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(caller.Context(), md))
	defer cancel()
	both := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	etcd, err := i.etcd.NewStream(ctx, both, method)
	if err != nil {
		return err
	}
	see := func(context.Context, []byte) error { return nil }
	if method == pb.KV_Range_FullMethodName {
		see = i.sees
	}
	go ask(etcd, caller, see) // ends with the caller's stream, at the latest when this function returns
	may := func([]byte) (bool, error) { return true, nil }
	if method == pb.Watch_Watch_FullMethodName {
		may = i.watch()
	}
	err = answer(caller, etcd, may)
	caller.SetTrailer(etcd.Trailer())
	return err
}

func ask(etcd grpc.ClientStream, caller grpc.ServerStream, see func(context.Context, []byte) error) {
	for {
		var m []byte
		if caller.RecvMsg(&m) != nil || see(caller.Context(), m) != nil {
			etcd.CloseSend()
			return
		}
		if etcd.SendMsg(&m) != nil {
			return
		}
	}
}

// watch returns the function that judges each response of a new watch stream.
func (i *Interceptor) watch() func([]byte) (bool, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	stream := i.streams
	i.streams++
	return func(m []byte) (bool, error) {
		var r WatchResponse
		if err := proto.Unmarshal(m, &r); err != nil {
			return false, err
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		return i.pass(stream, &r), nil
	}
}

func answer(caller grpc.ServerStream, etcd grpc.ClientStream, may func([]byte) (bool, error)) error {
	for {
		var m []byte
		if err := etcd.RecvMsg(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return status.Convert(err).Err()
		}
		if ok, err := may(m); err != nil {
			return err
		} else if !ok {
			continue
		}
		if err := caller.SendMsg(&m); err != nil {
			return err
		}
	}
}

// rawCodec passes messages as they are.
type rawCodec struct{}

var _ encoding.CodecV2 = rawCodec{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("%T is no raw message", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*m)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is no raw message", v)
	}
	*m = data.Materialize()
	return nil
}
