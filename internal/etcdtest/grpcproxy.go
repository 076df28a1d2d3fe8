package etcdtest

import (
	"context"
	"net"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// GRPCProxy starts what `etcd grpc-proxy` runs in front of the etcd at endpoint, and returns the proxy's endpoint.
func GRPCProxy(t testing.TB, endpoint string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client := Client(t, endpoint)
	ctx, cancel := context.WithCancel(context.Background())
	kv, kvEnded := grpcproxy.NewKvProxy(client)
	watch, watchEnded := grpcproxy.NewWatchProxy(ctx, zap.NewNop(), client)
	server := grpc.NewServer()
	pb.RegisterKVServer(server, kv)
	pb.RegisterWatchServer(server, watch)
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l) }) // ends when the server is stopped
	t.Cleanup(func() {
		cancel()
		server.Stop()
		serving.Wait()
		client.Close()
		<-kvEnded
		<-watchEnded
	})
	return l.Addr().String()
}
