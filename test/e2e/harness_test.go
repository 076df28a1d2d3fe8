// Package e2e tells the stories that users live: a real etcd, lbproxy wired as its binary wires it, real gRPC
// servers registered by the real registrar, real gRPC clients.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	hello "google.golang.org/grpc/examples/helloworld/helloworld"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/internal/app"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

// lbproxy is a running proxy.
type lbproxy struct {
	*app.App
	t    testing.TB
	stop func() error // ends it as SIGTERM does, once
}

// startProxy runs a proxy on the etcd at endpoint. Configure may change its configuration.
func startProxy(t testing.TB, endpoint string, configure ...func(*configs.Config)) *lbproxy {
	t.Helper()
	cfg := configs.Default()
	cfg.Listeners = []configs.Listener{{Address: "127.0.0.1:0"}}
	cfg.Admin.Address = "127.0.0.1:0"
	cfg.Discovery.Etcd.Endpoints = []string{endpoint}
	for _, c := range configure {
		c(cfg)
	}
	a, err := app.New(cfg, "e2e", zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)), zap.NewAtomicLevel())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }() // ends by stop, which waits for it
	p := &lbproxy{App: a, t: t}
	stopped := false
	p.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// dial connects a client to the proxy. Authority is what the client calls the server; empty, its address.
func (p *lbproxy) dial(authority string) *grpc.ClientConn {
	p.t.Helper()
	return dial(p.t, "passthrough:///"+p.Addrs()[0], grpc.WithAuthority(authority))
}

func dial(t testing.TB, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(target, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// admin gets a page of the admin API.
func (p *lbproxy) admin(path string) (code int, body string) {
	p.t.Helper()
	resp, err := http.Get("http://" + p.AdminAddr() + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// service is what the admin API says of a service.
func (p *lbproxy) service(name string) (s proxy.ServiceStatus) {
	p.t.Helper()
	if code, body := p.admin("/services/" + name); code == http.StatusOK {
		if err := json.Unmarshal([]byte(body), &s); err != nil {
			p.t.Fatal(err)
		}
	}
	return s
}

// awaitReady waits until the proxy is connected to n instances of a service, and nothing else is left of it.
func (p *lbproxy) awaitReady(service string, n int) {
	p.t.Helper()
	await(p.t, fmt.Sprintf("%d ready instances of %s", n, service), func() bool {
		instances := p.service(service).Instances
		for _, in := range instances {
			if in.State != picker.Ready.String() {
				return false
			}
		}
		return len(instances) == n
	})
}

// await waits until what holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %s", what, patience)
		}
		time.Sleep(5 * time.Millisecond) // between one look and the next
	}
}

// listed makes the proxy watch services from the start.
func listed(services ...string) func(*configs.Config) {
	return func(cfg *configs.Config) {
		cfg.Services = map[string]configs.Service{}
		for _, name := range services {
			cfg.Services[name] = configs.DefaultService()
		}
	}
}

// backend is a gRPC server that says hello by its own name.
type backend struct {
	hello.UnimplementedGreeterServer
	*grpc.Server
	addr string
}

// startBackend serves hello, and what register adds.
func startBackend(t testing.TB, register ...func(*grpc.Server)) *backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{Server: grpc.NewServer(), addr: l.Addr().String()}
	hello.RegisterGreeterServer(b.Server, b)
	for _, r := range register {
		r(b.Server)
	}
	ended := make(chan struct{})
	go func() { // ends by Stop
		defer close(ended)
		b.Serve(l)
	}()
	t.Cleanup(func() {
		b.Stop()
		<-ended
	})
	return b
}

func (b *backend) SayHello(_ context.Context, in *hello.HelloRequest) (*hello.HelloReply, error) {
	return &hello.HelloReply{Message: b.addr}, nil
}

// register registers the backend until the test ends, or until it is stopped.
func (b *backend) register(t testing.TB, etcd *discovery.EtcdClient, service, version string, weight int) *discovery.Registrar {
	t.Helper()
	r, err := discovery.NewRegistrar(etcd, service,
		discovery.Instance{Addr: b.addr, Version: version, Weight: weight},
		discovery.RegistrarOptions{Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(func() { r.Stop(context.Background()) })
	select {
	case <-r.Registered():
	case <-time.After(patience):
		t.Fatal("not registered in time")
	}
	return r
}

// etcdClient is the client that instances register through.
func etcdClient(t testing.TB, endpoint string) *discovery.EtcdClient {
	t.Helper()
	c, err := discovery.NewEtcdClient(discovery.EtcdConfig{Endpoints: []string{endpoint}}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// greet calls SayHello n times and counts who answered.
func greet(t testing.TB, cc grpc.ClientConnInterface, n int, opts ...grpc.CallOption) map[string]int {
	t.Helper()
	answers := map[string]int{}
	for range n {
		reply, err := hello.NewGreeterClient(cc).SayHello(t.Context(), &hello.HelloRequest{Name: "e2e"}, opts...)
		if err != nil {
			t.Fatal(err)
		}
		answers[reply.Message]++
	}
	return answers
}
