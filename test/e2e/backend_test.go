package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	hello "google.golang.org/grpc/examples/helloworld/helloworld"
	"google.golang.org/grpc/mem"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registrar"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

// backend is a gRPC server that says who it is: to SayHello, and to every message of any stream.
type backend struct {
	hello.UnimplementedGreeterServer
	*grpc.Server
	addr  string
	ended chan struct{} // closed when it has stopped serving

	// What startBackend's options may set:
	listen   string
	options  []grpc.ServerOption
	services []func(*grpc.Server)
	sayHello func(context.Context) error // what SayHello does before it answers
}

// at makes the backend listen at an address that an earlier one has left.
func at(addr string) func(*backend) { return func(b *backend) { b.listen = addr } }

// serving adds services to those of the backend.
func serving(register func(*grpc.Server)) func(*backend) {
	return func(b *backend) { b.services = append(b.services, register) }
}

// onHello is what SayHello does before it answers.
func onHello(do func(context.Context) error) func(*backend) {
	return func(b *backend) { b.sayHello = do }
}

// startBackend starts a backend that runs until the test ends, or until it is stopped.
func startBackend(t testing.TB, options ...func(*backend)) *backend {
	t.Helper()
	b := newBackend(options...)
	if b.listen == "" {
		b.listen = newAddr(t)
	}
	l, err := net.Listen("tcp", b.listen)
	if err != nil {
		t.Fatal(err)
	}
	b.serve(t, l)
	return b
}

func newBackend(options ...func(*backend)) *backend {
	b := &backend{ended: make(chan struct{}), sayHello: func(context.Context) error { return nil }}
	b.options = []grpc.ServerOption{grpc.UnknownServiceHandler(b.converse), grpc.WaitForHandlers(true)}
	for _, o := range options {
		o(b)
	}
	return b
}

func (b *backend) serve(t testing.TB, l net.Listener) {
	b.addr = l.Addr().String()
	b.Server = grpc.NewServer(b.options...)
	hello.RegisterGreeterServer(b.Server, b)
	for _, register := range b.services {
		register(b.Server)
	}
	go func() { // ends by Stop
		defer close(b.ended)
		b.Serve(l)
	}()
	t.Cleanup(b.kill)
}

// kill ends the backend and every connection to it at once.
func (b *backend) kill() {
	b.Stop()
	<-b.ended
}

func (b *backend) SayHello(ctx context.Context, _ *hello.HelloRequest) (*hello.HelloReply, error) {
	if err := b.sayHello(ctx); err != nil {
		return nil, err
	}
	return &hello.HelloReply{Message: b.addr}, nil
}

func (b *backend) converse(_ any, stream grpc.ServerStream) error {
	for {
		if err := stream.RecvMsg(&hello.HelloRequest{}); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(&hello.HelloReply{Message: b.addr}); err != nil {
			return err
		}
	}
}

// onAnyMethod makes a backend answer calls of any other method, in raw messages.
func onAnyMethod(do func(grpc.ServerStream) error) func(*backend) {
	return func(b *backend) {
		b.options = []grpc.ServerOption{
			grpc.ForceServerCodecV2(protoOrRaw{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error { return do(s) }),
			grpc.WaitForHandlers(true),
		}
	}
}

// protoOrRaw is a codec of both messages that are protobuf and messages that are bytes.
type protoOrRaw struct{ rawCodec }

func (c protoOrRaw) Marshal(v any) (mem.BufferSlice, error) {
	if _, raw := v.(*[]byte); raw {
		return c.rawCodec.Marshal(v)
	}
	return encoding.GetCodecV2(encodingproto.Name).Marshal(v)
}

func (c protoOrRaw) Unmarshal(data mem.BufferSlice, v any) error {
	if _, raw := v.(*[]byte); raw {
		return c.rawCodec.Unmarshal(data, v)
	}
	return encoding.GetCodecV2(encodingproto.Name).Unmarshal(data, v)
}

// instance is a backend and its registration.
type instance struct {
	*backend
	*registrar.Registrar
	t      testing.TB
	client *etcd.Client // the registration's own
}

// startInstance starts a backend and registers it.
func (w *world) startInstance(service, version string, weight int, options ...func(*backend)) *instance {
	w.t.Helper()
	return w.register(startBackend(w.t, options...), service, version, weight)
}

// register registers a backend until the test ends, or until the instance is deregistered or abandoned.
func (w *world) register(b *backend, service, version string, weight int) *instance {
	w.t.Helper()
	in := &instance{backend: b, t: w.t, client: w.newClient()}
	in.Registrar = w.startRegistrar(in.client, service, discovery.Instance{Addr: b.addr, Version: version, Weight: weight})
	return in
}

func (w *world) startRegistrar(client *etcd.Client, service string, in discovery.Instance) *registrar.Registrar {
	w.t.Helper()
	r, err := registrar.New(client, service, in, registrar.Options{
		TTL: w.ttl, Log: zaptest.NewLogger(w.t, zaptest.Level(zap.ErrorLevel)),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	r.Start()
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		r.Stop(ctx)
	})
	select {
	case <-r.Registered():
	case <-time.After(patience):
		w.t.Fatal("not registered in time")
	}
	return r
}

// deregister ends the registration; the backend goes on.
func (in *instance) deregister() {
	in.t.Helper()
	if err := in.Registrar.Stop(within(in.t)); err != nil {
		in.t.Error(err)
	}
}

func (in *instance) setWeight(weight int) {
	in.t.Helper()
	if err := in.SetWeight(within(in.t), weight); err != nil {
		in.t.Fatal(err)
	}
}

// expire ends the registration's lease, as etcd does when nobody has renewed it in time.
func (in *instance) expire(etcd string) {
	in.t.Helper()
	lease, err := strconv.ParseInt(in.Status().Lease, 16, 64)
	if err != nil {
		in.t.Fatal(err)
	}
	if _, err := etcdtest.Client(in.t, etcd).Revoke(in.t.Context(), clientv3.LeaseID(lease)); err != nil {
		in.t.Fatal(err)
	}
}

// abandon ends the registration as the death of its process does: without a word to etcd.
func (in *instance) abandon() {
	in.t.Helper()
	if err := in.client.Close(); err != nil {
		in.t.Error(err)
	}
}
