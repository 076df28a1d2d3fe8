package grpcresolver_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/grpcresolver"
	"github.com/lbproxy/lbproxy/discovery/registrar"
	"github.com/lbproxy/lbproxy/discovery/registry"
	"github.com/lbproxy/lbproxy/internal/embedetcd"
	"github.com/lbproxy/lbproxy/metrics"
)

// A Go client calls the service hello without a proxy between, and balances its calls by itself.
func Example() {
	etcdAddress, stop := startEtcdWithHello()
	defer stop()

	client, err := etcd.NewClient(etcd.Config{Endpoints: []string{etcdAddress}}, zap.NewNop())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	source := registry.New(client, metrics.NewDiscovery(prometheus.NewRegistry()), zap.NewNop())

	conn, err := grpc.NewClient("etcd:///hello",
		grpc.WithResolvers(grpcresolver.New(source)),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	answer, err := healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("hello is", answer.Status)
	// Output: hello is SERVING
}

// startEtcdWithHello stands for what a fleet has already: an etcd, and a gRPC server that has registered in it.
func startEtcdWithHello() (etcdAddress string, stop func()) {
	dir, err := os.MkdirTemp("", "grpcresolver")
	if err != nil {
		log.Fatal(err)
	}
	server, err := embedetcd.Start(dir)
	if err != nil {
		log.Fatal(err)
	}
	client, err := etcd.NewClient(etcd.Config{Endpoints: []string{server.Endpoint()}}, zap.NewNop())
	if err != nil {
		log.Fatal(err)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	hello := grpc.NewServer()
	healthpb.RegisterHealthServer(hello, health.NewServer())
	go hello.Serve(l) // ends when hello stops

	registration, err := registrar.New(client, "hello",
		discovery.Instance{Addr: l.Addr().String(), Weight: discovery.DefaultWeight}, registrar.Options{})
	if err != nil {
		log.Fatal(err)
	}
	registration.Start()
	<-registration.Registered()

	return server.Endpoint(), func() {
		if err := registration.Stop(context.Background()); err != nil {
			log.Print(err)
		}
		hello.Stop()
		client.Close()
		server.Stop()
		os.RemoveAll(dir)
	}
}
