package registry_test

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
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registrar"
	"github.com/lbproxy/lbproxy/discovery/registry"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

// overTLS has etcd serve TLS with the files in dir, and want a certificate of its clients.
func overTLS(dir string) func(*embed.Config) {
	return func(cfg *embed.Config) {
		cfg.ListenClientUrls[0].Scheme, cfg.AdvertiseClientUrls[0].Scheme = "https", "https"
		cfg.ClientTLSInfo = transport.TLSInfo{
			CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
			TrustedCAFile: filepath.Join(dir, "ca.pem"), ClientCertAuth: true,
		}
	}
}

func tlsClient(endpoint, dir string) etcd.Config {
	return etcd.Config{
		Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second,
		TLS: &etcd.TLSConfig{
			CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"),
			ServerName: "etcd.example",
		},
	}
}

func TestEtcdOverTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newCA(t).certify(t, dir)
	server := etcdtest.Start(t, overTLS(dir))
	cfg := tlsClient(server.Endpoint(), dir)
	s := newSource(t, cfg, registry.Limits{})
	if err := s.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	s.follow(t, "user").await("")

	cfg.TLS.ServerName = "other.example"
	err := newSource(t, cfg, registry.Limits{}).Probe(t.Context())
	if err == nil || !strings.Contains(err.Error(), "not other.example") {
		t.Errorf("the certificate is for another name: got %v, want an error that says so", err)
	}
}

// Authorities, certificates and keys are replaced while proxies and registrars run: with an authority that both sides
// trust meanwhile, or at one blow. Neither is cut off once the files are there.
func TestEtcdCertificatesAreRotated(t *testing.T) {
	t.Parallel()
	servers, clients := t.TempDir(), t.TempDir()
	old, next := newCA(t), newCA(t)
	old.certify(t, servers)
	old.certify(t, clients)
	server := etcdtest.Start(t, overTLS(servers))
	network := etcdtest.Forward(t, server.Endpoint())
	restart := func() {
		t.Helper()
		network.Cut() // over TLS, the server does not end before its streams do
		defer network.Resume()
		server.Stop()
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	cfg := tlsClient(network.Endpoint(), clients)
	s := newSource(t, cfg, registry.Limits{})
	f := s.follow(t, "hello")
	r, err := registrar.New(newClient(t, cfg), "hello", discovery.Instance{Addr: "127.0.0.1:1001", Weight: 10}, registrar.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(func() { r.Stop(context.Background()) })
	weight := 10
	works := func(when string) {
		t.Helper()
		weight++
		if err := r.SetWeight(etcdtest.Within(t), weight); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		f.await(fmt.Sprintf("127.0.0.1:1001=%d", weight))
	}
	works("at first")

	for _, dir := range []string{servers, clients} {
		writeCAs(t, dir, old, next)
	}
	restart()
	works("with both authorities")
	next.certify(t, clients)
	writeCAs(t, clients, old, next)
	restart()
	works("with a client's certificate of the next authority")
	next.certify(t, servers)
	restart()
	works("with a server's certificate of the next authority, and that authority alone")

	last := newCA(t)
	last.certify(t, servers)
	restart()
	etcdtest.Eventually(t, "the registrar is cut off, and says why", func() bool {
		return strings.Contains(r.Status().Error, "unknown authority")
	})
	if err := os.Remove(filepath.Join(clients, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	etcdtest.Eventually(t, "the registrar says which file is missing", func() bool {
		return strings.Contains(r.Status().Error, filepath.Join(clients, "ca.pem"))
	})
	last.certify(t, clients)
	works("after a cut")
}

type certAuthority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCA(t *testing.T) certAuthority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certAuthority{cert, key}
}

// certify writes the authority's ca.pem, and cert.pem and key.pem for etcd.example, which serve for both ends.
func (ca certAuthority) certify(t *testing.T, dir string) {
	t.Helper()
	key := newKey(t)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "etcd"}, DNSNames: []string{"etcd.example"},
		NotBefore: ca.cert.NotBefore, NotAfter: ca.cert.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	certDER, err := x509.CreateCertificate(rand.Reader, leaf, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, "cert.pem"), &pem.Block{Type: "CERTIFICATE", Bytes: certDER})
	writePEM(t, filepath.Join(dir, "key.pem"), &pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	writeCAs(t, dir, ca)
}

// writeCAs writes ca.pem with all authorities.
func writeCAs(t *testing.T, dir string, authorities ...certAuthority) {
	t.Helper()
	var blocks []*pem.Block
	for _, ca := range authorities {
		blocks = append(blocks, &pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
	}
	writePEM(t, filepath.Join(dir, "ca.pem"), blocks...)
}

func writePEM(t *testing.T, path string, blocks ...*pem.Block) {
	t.Helper()
	var content []byte
	for _, b := range blocks {
		content = append(content, pem.EncodeToMemory(b)...)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
