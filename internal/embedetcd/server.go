// Package embedetcd runs real etcd servers inside this process, on free loopback ports: the registry of the playground
// (cmd/lbproxy-dev) and of the tests.
//
// It is not for data worth keeping: the servers do not fsync, and they stop as if they crashed.
package embedetcd

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

const (
	readyTimeout  = 30 * time.Second
	startAttempts = 5

	// Half of etcd's defaults: busy machines still send heartbeats in time, and the shortest lease, one and a half
	// election timeouts, is 1 s.
	tickMs     = 50
	electionMs = 10 * tickMs
)

// A Server is one etcd server. Its methods are for one goroutine at a time.
type Server struct {
	// Immutable:
	dir, name         string
	clientURL, peerAt url.URL
	cluster           string // every member's name=peerURL
	tune              []func(*embed.Config)

	etcd *embed.Etcd // nil while stopped

	mu   sync.Mutex // protects:
	grpc []*grpc.Server
}

// Start starts a server with its data in a directory below dir, and with the data of an earlier server there. Tune
// changes the server's configuration before each start, for instance to serve TLS.
func Start(dir string, tune ...func(*embed.Config)) (*Server, error) {
	c, err := start(dir, 1, tune)
	if err != nil {
		return nil, err
	}
	return c.Members[0], nil
}

// StartAt is Start at a given address for clients, host:port, which must be free.
func StartAt(dir, endpoint string) (*Server, error) {
	c, err := newCluster(dir, 1, nil)
	if err != nil {
		return nil, err
	}
	c.Members[0].clientURL.Host = endpoint
	if err := c.start(); err != nil {
		c.Stop()
		return nil, err
	}
	return c.Members[0], nil
}

func newServer(dir, name string, tune []func(*embed.Config)) (*Server, error) {
	client, err := freePort()
	if err != nil {
		return nil, err
	}
	peer, err := freePort()
	if err != nil {
		return nil, err
	}
	return &Server{
		dir: filepath.Join(dir, name), name: name, tune: tune,
		clientURL: url.URL{Scheme: "http", Host: client},
		peerAt:    url.URL{Scheme: "http", Host: peer},
	}, nil
}

// Endpoint is the host:port that clients dial.
func (s *Server) Endpoint() string { return s.clientURL.Host }

// Restart starts the server again after Stop, at the same address and with the data it had. It returns when
// the server is ready, which in a cluster takes a majority of its members.
func (s *Server) Restart() error {
	if err := s.launch(); err != nil {
		return err
	}
	return s.awaitReady()
}

// Stop ends the server at once: connections break, and a leader does not hand over. Stopping a stopped server does
// nothing.
func (s *Server) Stop() {
	if s.etcd == nil {
		return
	}
	s.mu.Lock()
	servers := s.grpc
	s.grpc = nil
	s.mu.Unlock()
	for _, g := range servers {
		g.Stop() // Close alone would wait for the clients' watches to end
	}
	s.etcd.Server.HardStop() // with Close alone a leader would hand over
	s.etcd.Close()
	s.etcd = nil
}

func (s *Server) launch() error {
	if s.etcd != nil {
		return fmt.Errorf("etcd at %s runs already", s.Endpoint())
	}
	e, err := embed.StartEtcd(s.config())
	if err != nil {
		return fmt.Errorf("start etcd at %s: %w", s.Endpoint(), err)
	}
	s.etcd = e
	return nil
}

func (s *Server) awaitReady() error {
	var err error
	select {
	case <-s.etcd.Server.ReadyNotify():
		return nil
	case err = <-s.etcd.Err():
	case <-time.After(readyTimeout):
		err = errors.New("not ready in time")
	}
	s.Stop()
	return fmt.Errorf("start etcd at %s: %w", s.Endpoint(), err)
}

func (s *Server) config() *embed.Config {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.Name = s.dir, s.name
	cfg.TickMs, cfg.ElectionMs = tickMs, electionMs
	cfg.UnsafeNoFsync = true
	cfg.EnableGRPCGateway = false
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{s.clientURL}, []url.URL{s.clientURL}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{s.peerAt}, []url.URL{s.peerAt}
	cfg.InitialCluster = s.cluster
	cfg.ServiceRegister = func(g *grpc.Server) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.grpc = append(s.grpc, g)
	}
	for _, tune := range s.tune {
		tune(cfg)
	}
	return cfg
}

// isPortTaken: someone else may take a port between our finding it free and listening on it.
func isPortTaken(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }
