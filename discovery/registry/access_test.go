package registry_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registrar"
	"github.com/lbproxy/lbproxy/discovery/registry"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

// withUsers has etcd's users log in fast, with the race detector, too. It hashes passwords, at a cost.
func withUsers(cfg *embed.Config) { cfg.BcryptCost = 4 }

// protect creates the users root, and lbproxy who may read everything below /, and returns root's client.
func protect(t *testing.T, endpoint string) store {
	t.Helper()
	open := etcdtest.Client(t, endpoint)
	for _, do := range []func(context.Context) error{
		func(ctx context.Context) error { _, err := open.UserAdd(ctx, "root", "secret"); return err },
		func(ctx context.Context) error { _, err := open.RoleAdd(ctx, "root"); return err },
		func(ctx context.Context) error { _, err := open.UserGrantRole(ctx, "root", "root"); return err },
		func(ctx context.Context) error { _, err := open.UserAdd(ctx, "lbproxy", "pass"); return err },
		func(ctx context.Context) error { _, err := open.RoleAdd(ctx, "reader"); return err },
		func(ctx context.Context) error {
			_, err := open.RoleGrantPermission(ctx, "reader", "/", clientv3.GetPrefixRangeEnd("/"),
				clientv3.PermissionType(clientv3.PermRead))
			return err
		},
		func(ctx context.Context) error { _, err := open.UserGrantRole(ctx, "lbproxy", "reader"); return err },
		func(ctx context.Context) error { _, err := open.AuthEnable(ctx); return err },
	} {
		if err := do(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	root, err := clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint}, Username: "root", Password: "secret", Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return store{root, t, endpoint}
}

func asUser(t *testing.T, endpoint string) etcd.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("pass\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return etcd.Config{
		Endpoints: []string{endpoint}, Username: "lbproxy", PasswordFile: file, DialTimeout: time.Second,
	}
}

func TestEtcdWithAUserComesLater(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, withUsers)
	root := protect(t, server.Endpoint())
	root.put("/user/10.0.0.1:1001", `{}`)
	server.Stop()
	s := newSource(t, asUser(t, server.Endpoint()), registry.Limits{})
	f := s.follow(t, "user")
	etcdtest.Eventually(t, "lists that fail", func() bool {
		return s.value(t, "lbproxy_discovery_relists_total/list_error") >= 2
	})
	if err := s.Probe(t.Context()); err == nil {
		t.Error("etcd is away, and the probe says nothing")
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	f.await("10.0.0.1:1001=1")
	if err := s.Probe(t.Context()); err != nil {
		t.Errorf("etcd is there: %v", err)
	}

	// Restarted, etcd has forgotten the token.
	server.Stop()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	etcdtest.Eventually(t, "a write", func() bool {
		_, err := root.Put(t.Context(), "/user/10.0.0.2:1001", `{}`)
		return err == nil
	})
	f.await("10.0.0.1:1001=1 10.0.0.2:1001=1")
}

// A stream keeps the token with which it was opened. When that has expired, watches that are there go on and
// new ones are refused: these must not try the same stream for ever.
func TestEtcdTokenExpires(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, withUsers, func(cfg *embed.Config) { cfg.AuthTokenTTL = 2 })
	root := protect(t, server.Endpoint())
	put := func(key string, opts ...clientv3.OpOption) {
		t.Helper()
		etcdtest.Eventually(t, "a write", func() bool { // root's token expires, too
			_, err := root.Put(t.Context(), key, `{}`, opts...)
			return err == nil
		})
	}
	s := newSource(t, asUser(t, server.Endpoint()), registry.Limits{})
	first := s.follow(t, "first")
	first.await("")
	put("/first/10.0.0.1:1001")
	first.await("10.0.0.1:1001=1")

	// When this lease has run out, so has a token that nobody used.
	var lease *clientv3.LeaseGrantResponse
	etcdtest.Eventually(t, "a lease", func() bool {
		var err error
		lease, err = root.Grant(t.Context(), 4)
		return err == nil
	})
	put("/first/10.0.0.2:1001", clientv3.WithLease(lease.ID))
	first.awaitPast("10.0.0.1:1001=1 10.0.0.2:1001=1")
	first.await("10.0.0.1:1001=1")

	second := s.follow(t, "second")
	second.await("")
	for i, want := range []string{
		"10.0.0.0:1001=1",
		"10.0.0.0:1001=1 10.0.0.1:1001=1",
		"10.0.0.0:1001=1 10.0.0.1:1001=1 10.0.0.2:1001=1",
	} {
		put(fmt.Sprintf("/second/10.0.0.%d:1001", i))
		second.await(want)
	}
	put("/first/10.0.0.3:1001")
	first.await("10.0.0.1:1001=1 10.0.0.3:1001=1")
	if got := s.value(t, "lbproxy_discovery_resumes_total/watch_error"); got != 1 {
		t.Errorf("%v watches went on after an error, want 1: for the token that had expired", got)
	}
}

func TestEtcdLogInBesideAFrozenMember(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, withUsers)
	protect(t, server.Endpoint())
	frozen := etcdtest.Forward(t, server.Endpoint())
	frozen.Stall()
	for range 4 { // whichever is asked first
		cfg := asUser(t, server.Endpoint())
		cfg.Endpoints = []string{frozen.Endpoint(), server.Endpoint()}
		s := newSource(t, cfg, registry.Limits{})
		s.follow(t, "user").await("")
	}
}

func TestEtcdPasswordIsRotated(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, withUsers)
	root := protect(t, server.Endpoint())
	if _, err := root.RoleGrantPermission(t.Context(), "reader", "/hello/", clientv3.GetPrefixRangeEnd("/hello/"),
		clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
		t.Fatal(err)
	}
	cfg := asUser(t, server.Endpoint())
	s := newSource(t, cfg, registry.Limits{})
	f := s.follow(t, "hello")
	f.await("")
	r, err := registrar.New(newClient(t, cfg), "hello", discovery.Instance{Addr: "127.0.0.1:1001", Weight: 10}, registrar.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(func() { r.Stop(context.Background()) })
	f.await("127.0.0.1:1001=10")

	if _, err := root.UserChangePassword(t.Context(), "lbproxy", "next"); err != nil {
		t.Fatal(err)
	}
	if err := s.Probe(t.Context()); err == nil {
		t.Error("the password has changed, and the probe says nothing")
	}
	if err := os.WriteFile(cfg.PasswordFile, []byte("next\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	etcdtest.Eventually(t, "etcd answers", func() bool { return s.Probe(t.Context()) == nil })
	if err := r.SetWeight(etcdtest.Within(t), 11); err != nil {
		t.Fatal(err)
	}
	f.await("127.0.0.1:1001=11")
	s.follow(t, "other").await("")
}
