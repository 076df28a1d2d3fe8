package relay

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
)

// Every way that bytes come and go: real servers and clients, with messages that no socket takes at once.
func TestDrivers(t *testing.T) {
	certificate, trust := selfSigned(t)
	noPoller := func(*shard) (*poller, error) { return nil, errors.ErrUnsupported }
	for _, tt := range []struct {
		name   string
		poller func(*shard) (*poller, error)
		listen func(t *testing.T) (l net.Listener, target string)
		creds  credentials.TransportCredentials
	}{
		{"TCP", newPoller, listenTCP, insecure.NewCredentials()},
		{"Unix", newPoller, listenUnix, insecure.NewCredentials()},
		{"TCP without a poller", noPoller, listenTCP, insecure.NewCredentials()},
		{"Unix without a poller", noPoller, listenUnix, insecure.NewCredentials()},
		{"TLS", newPoller, func(t *testing.T) (net.Listener, string) {
			l, target := listenTCP(t)
			return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}}), target
		}, credentials.NewTLS(&tls.Config{RootCAs: trust, ServerName: "localhost"})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := startEcho(t)
			m := metrics.New(prometheus.NewRegistry(), "test")
			engine := newEngine(testConfig, m, zap.NewNop(), tt.poller)
			services := proxy.NewDirectory(proxy.DirectoryConfig{
				Source: instances{[]string{backend}, make(chan struct{})}, Dial: engine.Dial, IdleRelease: time.Hour, Metrics: m,
				Log: zap.NewNop(),
			})
			defer services.Close()
			services.Configure(map[string]proxy.ServiceConfig{
				service: {Policy: picker.WeightedRoundRobin, WaitTimeout: 10 * time.Second},
			})
			l, target := tt.listen(t)
			served := make(chan error, 1)
			go func() { served <- engine.Serve(proxy.NewPolicy(services, m), l, service) }() // ends by Shutdown
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cc, err := grpc.NewClient(target, grpc.WithTransportCredentials(tt.creds))
			if err != nil {
				t.Fatal(err)
			}
			defer cc.Close()
			for _, size := range []int{0, 100, 1 << 20} {
				if err := echo(ctx, cc, size, 3); err != nil {
					t.Errorf("%d bytes: %v", size, err)
				}
			}
			var all errgroup.Group
			for range 20 {
				all.Go(func() error { return echo(ctx, cc, 100<<10, 20) })
			}
			if err := all.Wait(); err != nil {
				t.Errorf("many at a time: %v", err)
			}
			cc.Close()
			engine.Shutdown(ctx)
			if err := <-served; err != nil {
				t.Errorf("serve: %v", err)
			}
			if ctx.Err() != nil {
				t.Error("the engine does not come to rest")
			}
		})
	}
}

func listenTCP(t *testing.T) (net.Listener, string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l, "passthrough:///" + l.Addr().String()
}

func listenUnix(t *testing.T) (net.Listener, string) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return l, "unix:" + path
}

// startEcho starts a server that sends back what it gets, and returns its address.
func startEcho(t *testing.T) string {
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		for {
			message := new(wrapperspb.BytesValue)
			switch err := s.RecvMsg(message); {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			}
			if err := s.SendMsg(message); err != nil {
				return err
			}
		}
	}))
	l, _ := listenTCP(t)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }() // ends by Stop
	t.Cleanup(func() {
		server.Stop()
		<-ended
	})
	return l.Addr().String()
}

// echo sends messages, all before it reads the first, and checks that each comes back.
func echo(ctx context.Context, cc *grpc.ClientConn, size, messages int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Echo")
	if err != nil {
		return err
	}
	sent := make([]byte, size)
	rand.Read(sent)
	sending := make(chan error, 1)
	go func() { // ends when all is sent, or with the stream
		for range messages {
			if err := stream.SendMsg(wrapperspb.Bytes(sent)); err != nil {
				sending <- err
				return
			}
		}
		sending <- stream.CloseSend()
	}()
	for range messages {
		got := new(wrapperspb.BytesValue)
		if err := stream.RecvMsg(got); err != nil {
			return err
		}
		if !bytes.Equal(got.Value, sent) {
			return errors.New("what comes back is not what was sent")
		}
	}
	if err := stream.RecvMsg(new(wrapperspb.BytesValue)); !errors.Is(err, io.EOF) {
		return err
	}
	return <-sending
}

// selfSigned makes a certificate of localhost's.
func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	trust := x509.NewCertPool()
	trust.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, trust
}
