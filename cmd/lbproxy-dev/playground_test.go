package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	greeter "google.golang.org/grpc/examples/helloworld/helloworld"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

func startPlayground(t *testing.T) *playground {
	t.Helper()
	return startPlaygroundAt(t, anyFree, anyFree, anyFree, anyFree, anyFree)
}

// startPlaygroundAt starts a playground whose flags have these addresses as defaults.
func startPlaygroundAt(t *testing.T, listen, admin, etcd, weights, servers string) *playground {
	t.Helper()
	at := func(value string) address { return address{flag: "flag", value: value} }
	o := &options{
		listen: at(listen), admin: at(admin), etcd: at(etcd), weightAddress: at(weights), servers: at(servers),
		weights: []int{1, 10}, policy: "weighted_round_robin",
	}
	p, err := start(t.Context(), o, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// weight is a server's weight, as lbproxy knows it.
func (p *playground) weight(t *testing.T, addr string) int {
	t.Helper()
	status, err := p.status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range status.Instances {
		if in.Addr == addr {
			return in.Weight
		}
	}
	t.Fatalf("lbproxy does not know %s: %+v", addr, status)
	return 0
}

// command returns the argument that follows before in what the banner shows.
func (p *playground) command(t *testing.T, before string) string {
	t.Helper()
	m := regexp.MustCompile(regexp.QuoteMeta(before) + ` '?([^\s']+)`).FindStringSubmatch(p.banner("weighted_round_robin"))
	if m == nil {
		t.Fatalf("no %q in the banner", before)
	}
	return m[1]
}

func TestAWeightIsChangedByCurl(t *testing.T) {
	p := startPlayground(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, p.command(t, "curl -X PUT"), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	addr := p.servers[1].addr
	etcdtest.Eventually(t, "the weight is the new one", func() bool { return p.weight(t, addr) == 5 })
}

func TestAWeightIsChangedByEtcdctl(t *testing.T) {
	p := startPlayground(t)
	etcd := etcdtest.Client(t, p.command(t, "etcdctl --endpoints"))
	key, last := p.command(t, "put"), p.servers[1]
	if _, err := etcd.Put(t.Context(), key, `{"weight":5}`); err != nil {
		t.Fatal(err)
	}
	etcdtest.Eventually(t, "the weight is the new one", func() bool { return p.weight(t, last.addr) == 5 })
	etcdtest.Eventually(t, "the new weight is registered", func() bool {
		s := last.registrar.Status()
		return s.Registered && s.Weight == 5
	})
	if got := p.weight(t, last.addr); got != 5 {
		t.Errorf("once the registrar has its key back the weight is %d, want 5", got)
	}

	// An invalid value does not stay either; the one before it does.
	if _, err := etcd.Put(t.Context(), key, "five"); err != nil {
		t.Fatal(err)
	}
	etcdtest.Eventually(t, "the registration is taken back", func() bool {
		kv, err := etcd.Get(t.Context(), key)
		return err == nil && strings.HasSuffix(string(kv.Kvs[0].Value), `"weight":5}`)
	})
}

// Grpcurl finds the method by reflection, through the proxy.
func TestServersDescribeThemselves(t *testing.T) {
	p := startPlayground(t)
	calls, err := newCaller(p.proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer calls.close()
	stream, err := grpc_reflection_v1.NewServerReflectionClient(calls.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var services []string
	for _, s := range answer.GetListServicesResponse().GetService() {
		services = append(services, s.GetName())
	}
	if !strings.Contains(strings.Join(services, " "), "helloworld.Greeter") {
		t.Errorf("services are %v, want helloworld.Greeter among them", services)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("the stream ended with %v, want io.EOF", err)
	}
}

func TestDefaultAddressesGiveWay(t *testing.T) {
	l, err := net.Listen("tcp", anyFree)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	p := startPlaygroundAt(t, taken, taken, taken, taken, taken)
	for _, at := range []string{p.proxy, p.admin, p.etcd, p.weights, p.servers[0].addr, p.servers[1].addr} {
		if at == taken {
			t.Errorf("something listens at %s, which is taken", at)
		}
	}
}

func TestDefaultAddressesAreUsedWhenTheyAreFree(t *testing.T) {
	var free []string
	var held []net.Listener // all at once, so that they are different
	for len(held) < 5 {
		// Below the ports that the system uses for outgoing connections.
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000)))
		if err == nil {
			free, held = append(free, l.Addr().String()), append(held, l)
		}
	}
	for _, l := range held {
		l.Close()
	}
	p := startPlaygroundAt(t, free[0], free[1], free[2], free[3], free[4])
	got := []string{p.proxy, p.admin, p.etcd, p.weights}
	if diff := cmp.Diff(free[:4], got); diff != "" {
		t.Errorf("-defaults +used:\n%s", diff)
	}
	if !slices.ContainsFunc(p.servers, func(s *server) bool { return s.addr == free[4] }) {
		t.Errorf("no server is at %s", free[4])
	}
}

// As the playground's banner suggests.
func TestAServiceOfOnesOwn(t *testing.T) {
	p := startPlayground(t)
	l, err := net.Listen("tcp", anyFree)
	if err != nil {
		t.Fatal(err)
	}
	mine := serve(l)
	defer mine.grpc.Stop()
	etcd := etcdtest.Client(t, p.command(t, "register --name mine --addr 127.0.0.1:50051 --etcd"))
	if _, err := etcd.Put(t.Context(), "/mine/"+mine.addr, "{}"); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+p.command(t, "grpcurl -plaintext -authority mine"),
		grpc.WithAuthority("mine"), grpc.WithNoProxy(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reply, err := greeter.NewGreeterClient(conn).SayHello(t.Context(), &greeter.HelloRequest{Name: "you"})
	if err != nil || !strings.Contains(reply.GetMessage(), mine.addr) {
		t.Errorf("got %v, %v, want an answer of %s", reply, err, mine.addr)
	}
}
