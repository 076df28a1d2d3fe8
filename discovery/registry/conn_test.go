package registry_test

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registry"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

// A process has one connection, to one of the members it knows, and another when that member fails it in any way.
func TestEtcdConnectsToOneMember(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	var members []*etcdtest.Forwarder
	cfg := etcd.Config{DialTimeout: time.Second}
	for i := range 3 {
		f := etcdtest.Forward(t, e.endpoint)
		members = append(members, f)
		_, port, _ := net.SplitHostPort(f.Endpoint())
		cfg.Endpoints = append(cfg.Endpoints, []string{f.Endpoint(), "localhost:" + port, "http://" + f.Endpoint()}[i])
	}
	s := newSource(t, cfg, impatient)
	f := s.follow(t, "user")
	f.await("")
	inUse := func() (used []*etcdtest.Forwarder) {
		for _, m := range members {
			for range m.Conns() {
				used = append(used, m)
			}
		}
		return used
	}
	for i, fail := range []func(*etcdtest.Forwarder){(*etcdtest.Forwarder).Cut, (*etcdtest.Forwarder).Stall, (*etcdtest.Forwarder).Stall} {
		used := inUse()
		if len(used) != 1 {
			t.Fatalf("%d connections, want 1", len(used))
		}
		fail(used[0])
		e.put("/user/10.0.0.1:1001", fmt.Sprintf(`{"weight":%d}`, i))
		f.await(fmt.Sprintf("10.0.0.1:1001=%d", i))
		used[0].Cut() // ends what stalled
		used[0].Resume()
		etcdtest.Eventually(t, "one connection, to another member", func() bool {
			now := inUse()
			return len(now) == 1 && now[0] != used[0]
		})
	}

	used := inUse()[0]
	members = slices.DeleteFunc(members, func(m *etcdtest.Forwarder) bool { return m == used })
	members[0].Cut()
	used.Stall()
	e.put("/user/10.0.0.1:1001", `{"weight":9}`)
	f.await("10.0.0.1:1001=9")
	if now := inUse(); len(now) != 1 || now[0] != members[1] {
		t.Errorf("connections are to %v, want one to the only member that answers", now)
	}
	used.Cut()
}

// What is known of why etcd cannot be used is said at once, and in words.
func TestEtcdSaysWhatIsWrongWithTheAddress(t *testing.T) {
	t.Parallel()
	listen := func(serve func(net.Conn)) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { // ends when the listener closes
			defer close(ended)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				serve(c)
				c.Close()
			}
		}()
		t.Cleanup(func() { l.Close(); <-ended })
		return l.Addr().String()
	}
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	web2 := httptest.NewUnstartedServer(http.NotFoundHandler())
	web2.Config.Protocols = new(http.Protocols)
	web2.Config.Protocols.SetUnencryptedHTTP2(true)
	web2.Start()
	t.Cleanup(web2.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other := grpc.NewServer()
	served := make(chan struct{})
	go func() { defer close(served); other.Serve(l) }() // ends when the server is stopped
	t.Cleanup(func() { other.Stop(); <-served })
	for _, tc := range []struct{ name, addr, want string }{
		{"nobody listens", "127.0.0.1:1", "connection refused"},
		{"a web server", web.Listener.Addr().String(), "is not etcd, it speaks HTTP/1.1"},
		{"a web server of HTTP/2", web2.Listener.Addr().String(), "is not etcd"},
		{"another gRPC server", l.Addr().String(), "is not etcd"},
		{"a mail server", listen(func(c net.Conn) { io.WriteString(c, "220 mail.example ESMTP\r\n") }), "it is not etcd"},
		{"one that says nothing", listen(func(c net.Conn) { io.Copy(io.Discard, c) }), "it is not etcd"},
		{"one that speaks TLS", secure.Listener.Addr().String(), "wants TLS"},
		{"one that hangs up", listen(func(net.Conn) {}), "it is not etcd"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t, etcd.Config{Endpoints: []string{tc.addr}, DialTimeout: time.Second}, registry.Limits{})
			f := s.follow(t, "user")
			start := time.Now()
			etcdtest.Eventually(t, "a reason", func() bool { return s.Standing("user").Err != nil })
			said := []error{s.Standing("user").Err, s.Probe(t.Context())}
			if took := time.Since(start); took > 4*time.Second {
				t.Errorf("it took %v to say so", took)
			}
			for _, err := range said {
				if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.addr) {
					t.Errorf("got %v, want an error that says %q of %s", err, tc.want, tc.addr)
				}
			}
			f.wantSnapshots()
		})
	}
}
