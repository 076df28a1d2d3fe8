package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

// A host is an etcd and an address for a server.
type host struct {
	t        *testing.T
	etcd     *clientv3.Client
	endpoint string
	addr     string
}

func newHost(t *testing.T) host {
	t.Helper()
	endpoint := etcdtest.Start(t).Endpoint()
	return host{t, etcdtest.Client(t, endpoint), endpoint, freeAddr(t)}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// register is the command line that registers the host's address, with more at its end.
func (h host) register(more ...string) []string {
	return append([]string{"register", "--name", "hello", "--addr", h.addr, "--etcd", h.endpoint}, more...)
}

func (h host) entry() *mvccpb.KeyValue {
	h.t.Helper()
	got, err := h.etcd.Get(h.t.Context(), "/hello/"+h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	if len(got.Kvs) == 0 {
		return nil
	}
	return got.Kvs[0]
}

func (h host) registered() bool   { return h.entry() != nil }
func (h host) unregistered() bool { return h.entry() == nil }

func (h host) accepts() bool { return accepts(h.t.Context(), h.addr) }

func TestRegisterUntilSignal(t *testing.T) {
	h := newHost(t)
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p := start(t, h.register("--weight", "7")...)
		etcdtest.Eventually(t, "the instance is registered", h.registered)
		if got, want := string(h.entry().Value), `"weight":7}`; !strings.HasSuffix(got, want) {
			t.Errorf("registered as %s, want it to end in %s", got, want)
		}
		p.send(s)
		p.awaitExit(0)
		if h.registered() {
			t.Errorf("still registered after %v", s)
		}
	}
}

func TestRegisterWarns(t *testing.T) {
	const unanswered, loopback = "nothing accepts connections at the address", "the address is loopback and etcd is not"
	t.Run("when nothing answers", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		p := start(t, h.register()...)
		etcdtest.Eventually(t, "the instance is registered", h.registered)
		p.awaitLog(unanswered)
		if strings.Contains(p.stderr.String(), loopback) {
			t.Error("it warns of loopback, where etcd is, too")
		}
		p.send(syscall.SIGTERM)
		p.awaitExit(0)
	})
	t.Run("unless something does", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		l, err := net.Listen("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		p := start(t, h.register()...)
		conn, err := l.Accept() // the look at the address
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		etcdtest.Eventually(t, "the instance is registered", h.registered)
		p.send(syscall.SIGTERM)
		p.awaitExit(0)
		if strings.Contains(p.stderr.String(), unanswered) {
			t.Error("it warns all the same")
		}
	})
	t.Run("of loopback, when etcd is elsewhere", func(t *testing.T) {
		t.Parallel()
		for _, etcd := range []string{"192.0.2.1:2379", "unixes.example:2379", "https://etcd.example:2379/", "127.0.0.1:1,etcd.example:2379"} {
			p := start(t, "register", "--name", "hello", "--addr", "localhost:1001", "--etcd", etcd)
			p.awaitLog(loopback)
		}
	})
}

func TestIsRemote(t *testing.T) {
	for endpoint, want := range map[string]bool{
		"127.0.0.1:2379": false, "http://localhost:2379": false, "https://[::1]:2379/": false,
		"unix:///run/etcd.sock": false, "unixs://localhost:0": false, "unix:/run/etcd.sock": false,
		"10.0.0.1:2379": true, "https://etcd.example:2379": true, "unixes.example:2379": true,
	} {
		if got := isRemote(endpoint); got != want {
			t.Errorf("%s: got %t, want %t", endpoint, got, want)
		}
	}
}

func TestRegisterUntilContextEnds(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	var out, log bytes.Buffer
	code := make(chan int)
	go func() { code <- run(ctx, h.register(), &out, &log) }() // ends after cancel
	etcdtest.Eventually(t, "the instance is registered", h.registered)
	cancel()
	if got := <-code; got != 0 || h.registered() || out.Len() > 0 {
		t.Errorf("exit code %d, registered %v, output %q and log\n%s", got, h.registered(), &out, &log)
	}
}

func TestRegisterThatCannotDeregisterFails(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	network := etcdtest.Forward(t, h.endpoint)
	h.endpoint = network.Endpoint()
	p := start(t, h.register()...)
	p.awaitLog("registered")
	network.Cut()
	p.send(syscall.SIGTERM)
	p.awaitExit(1)
	p.awaitLog("the registration ends by itself within 10s")
}

func TestWeightAddressTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	code, _, stderr := lbproxy(t, "register", "--name", "hello", "--addr", "127.0.0.1:1001", "--weight-address", l.Addr().String())
	if want := fmt.Sprintf("--weight-address: %s is taken by ", l.Addr()); code != 1 || !strings.Contains(stderr, want) {
		t.Errorf("exit code %d and %swant 1 with %q", code, stderr, want)
	}
}

func TestWeightAddress(t *testing.T) {
	h := newHost(t)
	p := start(t, h.register("--weight-address", "127.0.0.1:0")...)
	etcdtest.Eventually(t, "the instance is registered", h.registered)
	at := regexp.MustCompile(`serving the weight  address=(\S+)`).FindStringSubmatch(p.stderr.String())
	if at == nil {
		t.Fatal("lbproxy does not say where it serves the weight")
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, fmt.Sprintf("http://%s/?weight=0", at[1]), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("got %s %s (error %v)", resp.Status, body, err)
	}
	if got := string(h.entry().Value); !strings.HasSuffix(got, `"weight":0}`) {
		t.Errorf("registered as %s, want weight 0", got)
	}
	p.send(syscall.SIGTERM)
	p.awaitExit(0)
}
