package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	greeter "google.golang.org/grpc/examples/helloworld/helloworld"
	"google.golang.org/grpc/reflection"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registrar"
)

const (
	service = "hello"
	version = "1.0.0"
)

// A server is one instance of the service: it says hello and which instance it is.
type server struct {
	greeter.UnimplementedGreeterServer

	// Immutable:
	addr      string
	grpc      *grpc.Server
	served    chan struct{} // closed when it has stopped serving
	registrar *registrar.Registrar

	calls atomic.Uint64 // that have arrived
}

// SayHello implements the service.
func (s *server) SayHello(_ context.Context, in *greeter.HelloRequest) (*greeter.HelloReply, error) {
	s.calls.Add(1)
	return &greeter.HelloReply{Message: fmt.Sprintf("Hello %s, this is %s", in.GetName(), s.addr)}, nil
}

// startServers starts and registers a server for each weight, the first at an address. The servers are in the order of their addresses,
// as tables show them.
func startServers(ctx context.Context, client *etcd.Client, at address, weights []int, log *zap.Logger) ([]*server, error) {
	var listeners []net.Listener
	for i := range weights {
		l, err := at.next(i).listen()
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return nil, err
		}
		listeners = append(listeners, l)
	}
	slices.SortFunc(listeners, func(a, b net.Listener) int { return cmp.Compare(a.Addr().String(), b.Addr().String()) })
	var servers []*server
	for _, l := range listeners {
		servers = append(servers, serve(l))
	}
	for i, s := range servers {
		in := discovery.Instance{Addr: s.addr, Version: version, Weight: weights[i]}
		var err error
		if s.registrar, err = registrar.New(client, service, in, registrar.Options{Log: log}); err != nil {
			return nil, errors.Join(err, stopServers(servers))
		}
		s.registrar.Start()
	}
	for _, s := range servers {
		if err := s.awaitRegistered(ctx); err != nil {
			return nil, errors.Join(err, stopServers(servers))
		}
	}
	return servers, nil
}

func serve(l net.Listener) *server {
	s := &server{addr: l.Addr().String(), grpc: grpc.NewServer(), served: make(chan struct{})}
	greeter.RegisterGreeterServer(s.grpc, s)
	reflection.Register(s.grpc) // grpcurl needs no proto file
	go func() {                 // ends by stopServers
		defer close(s.served)
		_ = s.grpc.Serve(l) // returns when Stop closes the listener
	}()
	return s
}

func (s *server) awaitRegistered(ctx context.Context) error {
	select {
	case <-s.registrar.Registered():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(patience):
		return fmt.Errorf("%s is not registered after %v: %s", s.addr, patience, s.registrar.Status().Error)
	}
}

// stopServers deregisters the servers, then stops them.
func stopServers(servers []*server) error {
	var errs []error
	for _, s := range servers {
		if s.registrar != nil {
			errs = append(errs, s.registrar.Stop(context.Background()))
		}
	}
	for _, s := range servers {
		s.grpc.Stop()
		<-s.served
	}
	return errors.Join(errs...)
}

// weightHandler serves each server's weight at /ADDR, for GET and PUT ?weight=N.
func weightHandler(servers []*server) http.Handler {
	mux := http.NewServeMux()
	for _, s := range servers {
		mux.Handle("/"+s.addr, s.registrar.WeightHandler())
	}
	return mux
}

// adoptWeights gives the servers the weights that somebody writes into etcd by hand, until ctx is done. Otherwise their
// registrars would take the keys back.
func adoptWeights(ctx context.Context, etcd *clientv3.Client, servers []*server) {
	byKey := map[string]*server{}
	for _, s := range servers {
		byKey[s.registrar.Status().Key] = s
	}
	// From the first revision on, so that everything written since the servers registered is seen.
	for changes := range etcd.Watch(ctx, "/"+service+"/", clientv3.WithPrefix(), clientv3.WithRev(1)) {
		for _, e := range changes.Events {
			// A key under a lease was written by a registrar.
			if s := byKey[string(e.Kv.Key)]; s != nil && e.Type == clientv3.EventTypePut && e.Kv.Lease == 0 {
				s.adopt(ctx, e.Kv.Value)
			}
		}
	}
}

// adopt takes over the weight in a value, if it is valid.
func (s *server) adopt(ctx context.Context, value []byte) {
	written := struct{ Weight int }{discovery.DefaultWeight}
	if json.Unmarshal(value, &written) != nil {
		return
	}
	// Do not wait for the registrar, which delays writing the key. Its error says that, or that the weight is not
	// valid; then the old one comes back, as with any registrar.
	ctx, cancel := context.WithTimeout(ctx, 0)
	defer cancel()
	_ = s.registrar.SetWeight(ctx, written.Weight)
}
