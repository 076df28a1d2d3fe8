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
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/net/http2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/relay/netpoll"
	"github.com/lbproxy/lbproxy/proxy/transport"
	"github.com/lbproxy/lbproxy/traffic"
)

// running is an engine in front of a server that sends back what it gets, over real sockets.
type running struct {
	t      *testing.T
	engine *Engine
	target string // of its callers
	served chan error
	closed func()
}

func noPoller(netpoll.Host, bool) (*netpoll.Poller, error) { return nil, errors.ErrUnsupported }

type listen = func(*testing.T) (l net.Listener, target string)

func startRelay(t *testing.T, poller newPoller, callers, backends listen) *running {
	reg := prometheus.NewRegistry()
	m := metrics.NewRelay(reg, testConfig.Workers, testConfig.Memory)
	services := proxy.NewDirectory(proxy.DirectoryConfig{
		Source: instances{[]string{startEcho(t, backends)}, make(chan struct{})}, IdleRelease: time.Hour,
		Calls: metrics.NewCalls(reg), Endpoints: metrics.NewEndpoints(reg), Log: zap.NewNop(),
	})
	router, dialer := proxy.NewRouter(services), transport.NewDialer()
	r := &running{
		t: t, engine: newEngine(testConfig, router, dialer, plentyOfDescriptors, m, zap.NewNop(), poller),
		served: make(chan error, 1), closed: services.Close,
	}
	services.Start(r.engine, rulesOf(traffic.Service{Policy: picker.WeightedRoundRobin, WaitTimeout: 10 * time.Second}))
	l, target := callers(t)
	r.target = target
	go func() { r.served <- r.engine.Serve(proxy.Listener{Listener: l, Service: service}) }() // ends by Shutdown
	return r
}

// stop shuts the engine down, which must come to rest in time.
func (r *running) stop(ctx context.Context) {
	r.t.Helper()
	rested := make(chan struct{})
	go func() { // ends with what is waited for below
		defer close(rested)
		r.engine.Shutdown(ctx)
		r.closed()
	}()
	select {
	case <-rested:
	case <-time.After(30 * time.Second):
		r.t.Fatal("the engine does not come to rest")
	}
	if err := <-r.served; err != nil {
		r.t.Errorf("serve: %v", err)
	}
}

// Every way that bytes come and go, with real servers and clients.
func TestDrivers(t *testing.T) {
	certificate, trust := selfSigned(t)
	listenTLS := func(t *testing.T) (net.Listener, string) {
		l, target := listenTCP(t)
		return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}}), target
	}
	plain := insecure.NewCredentials()
	for _, tt := range []struct {
		name     string
		poller   newPoller
		callers  listen
		backends listen
		creds    credentials.TransportCredentials
		options  []grpc.DialOption
	}{
		{"TCP", netpoll.NewPoller, listenTCP, listenTCP, plain, nil},
		{"TCP in small pieces", netpoll.NewPoller, listenTCP, listenTight, plain, []grpc.DialOption{grpc.WithContextDialer(dialTight)}},
		{"Unix", netpoll.NewPoller, listenUnix, listenTCP, plain, nil},
		{"TCP without a poller", noPoller, listenTCP, listenTCP, plain, nil},
		{"Unix without a poller", noPoller, listenUnix, listenTCP, plain, nil},
		{"TLS", netpoll.NewPoller, listenTLS, listenTCP, credentials.NewTLS(&tls.Config{RootCAs: trust, ServerName: "localhost"}), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := startRelay(t, tt.poller, tt.callers, tt.backends)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cc, err := grpc.NewClient(r.target, append(tt.options, grpc.WithTransportCredentials(tt.creds))...)
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
				all.Go(func() error { return echo(ctx, cc, 100<<10, 5) })
			}
			if err := all.Wait(); err != nil {
				t.Errorf("many at a time: %v", err)
			}
			cc.Close()
			r.stop(ctx)
		})
	}
}

// A caller that does not close its end does not keep the engine.
func TestShutdownBesideACallerThatStays(t *testing.T) {
	for name, poller := range map[string]newPoller{"poller": netpoll.NewPoller, "no poller": noPoller} {
		t.Run(name, func(t *testing.T) {
			r := startRelay(t, poller, listenTCP, listenTCP)
			nc, err := net.Dial("tcp", strings.TrimPrefix(r.target, "passthrough:///"))
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			fr := http2.NewFramer(nc, nc)
			io.WriteString(nc, h2.ClientPreface)
			fr.WriteSettings()
			if _, err := fr.ReadFrame(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			r.stop(ctx)
		})
	}
}

var plentyOfDescriptors = transport.NewDescriptors(
	1<<20, 0, metrics.NewDescriptors(prometheus.NewRegistry()), zap.NewNop())

func listenTCP(t *testing.T) (net.Listener, string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l, "passthrough:///" + l.Addr().String()
}

// listenTight listens for connections whose receive buffers hold no more than one frame.
func listenTight(t *testing.T) (net.Listener, string) {
	l, target := listenTCP(t)
	return tightListener{l}, target
}

type tightListener struct{ net.Listener }

func (l tightListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil {
		err = nc.(*net.TCPConn).SetReadBuffer(maxFrameSize)
	}
	return nc, err
}

func dialTight(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err == nil {
		err = nc.(*net.TCPConn).SetReadBuffer(maxFrameSize)
	}
	return nc, err
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
func startEcho(t *testing.T, listen listen) string {
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
	l, _ := listen(t)
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
