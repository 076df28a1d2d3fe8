package discovery_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

// withUsers has etcd's users log in fast, with the race detector, too. It hashes passwords, at a cost.
func withUsers(cfg *embed.Config) { cfg.BcryptCost = 4 }

// protect creates the users root, and lbproxy who may read everything below /, and returns root's client.
func protect(t *testing.T, endpoint string) etcd {
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
	return etcd{root, t, endpoint}
}

func asUser(t *testing.T, endpoint string) discovery.EtcdConfig {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("pass\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return discovery.EtcdConfig{
		Endpoints: []string{endpoint}, Username: "lbproxy", PasswordFile: file, DialTimeout: time.Second,
	}
}

func TestEtcdWithAUserComesLater(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, withUsers)
	root := protect(t, server.Endpoint())
	root.put("/user/10.0.0.1:1001", `{}`)
	server.Stop()
	s := newSource(t, asUser(t, server.Endpoint()), discovery.EtcdLimits{})
	f := s.follow(t, "user")
	eventually(t, "lists that fail", func() bool {
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
	eventually(t, "a write", func() bool {
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
	s := newSource(t, asUser(t, server.Endpoint()), discovery.EtcdLimits{})
	first := s.follow(t, "first")
	first.await("")
	root.put("/first/10.0.0.1:1001", `{}`)
	first.await("10.0.0.1:1001=1")

	// When this lease has run out, so has a token that nobody used.
	lease, err := root.Grant(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	root.put("/first/10.0.0.2:1001", `{}`, clientv3.WithLease(lease.ID))
	first.await("10.0.0.1:1001=1 10.0.0.2:1001=1")
	first.await("10.0.0.1:1001=1")

	second := s.follow(t, "second")
	second.await("")
	put := func(key string) {
		t.Helper()
		eventually(t, "a write", func() bool { // root's token expires, too
			_, err := root.Put(t.Context(), key, `{}`)
			return err == nil
		})
	}
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

func TestEtcdOverTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certify(t, dir)
	file := func(name string) string { return filepath.Join(dir, name) }
	server := etcdtest.Start(t, func(cfg *embed.Config) {
		cfg.ListenClientUrls[0].Scheme, cfg.AdvertiseClientUrls[0].Scheme = "https", "https"
		cfg.ClientTLSInfo = transport.TLSInfo{
			CertFile: file("cert.pem"), KeyFile: file("key.pem"),
			TrustedCAFile: file("ca.pem"), ClientCertAuth: true,
		}
	})
	cfg := discovery.EtcdConfig{
		Endpoints: []string{server.Endpoint()}, DialTimeout: time.Second,
		TLS: &discovery.TLSConfig{
			CA: file("ca.pem"), Cert: file("cert.pem"), Key: file("key.pem"), ServerName: "etcd.example",
		},
	}
	s := newSource(t, cfg, discovery.EtcdLimits{})
	if err := s.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	s.follow(t, "user").await("")

	cfg.TLS.ServerName = "other.example"
	err := newSource(t, cfg, discovery.EtcdLimits{}).Probe(t.Context())
	if err == nil || !strings.Contains(err.Error(), "not other.example") {
		t.Errorf("the certificate is for another name: got %v, want an error that says so", err)
	}
}

// certify writes ca.pem, and cert.pem and key.pem for etcd.example, which serve for both ends.
func certify(t *testing.T, dir string) {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "etcd"}, DNSNames: []string{"etcd.example"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"ca.pem":   {Type: "CERTIFICATE", Bytes: caDER},
		"cert.pem": {Type: "CERTIFICATE", Bytes: leafDER},
		"key.pem":  {Type: "EC PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
