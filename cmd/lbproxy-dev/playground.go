package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/internal/app"
	"github.com/lbproxy/lbproxy/internal/embedetcd"
	"github.com/lbproxy/lbproxy/internal/terminal"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
)

const (
	patience     = 20 * time.Second // bounds every wait of the start
	drainTimeout = 3 * time.Second
	pollInterval = 10 * time.Millisecond
	adminTimeout = 5 * time.Second
)

// A playground is everything that is called and shown; stop ends it.
type playground struct {
	// Immutable:
	etcd    string // host:port
	servers []*server
	weights string     // host:port of the HTTP server of the servers' weights
	proxy   string     // host:port for calls
	admin   string     // host:port
	ended   chan error // gets why lbproxy ended

	ending []func() error // what stop does, last first
}

// start starts a playground and returns when lbproxy is connected to every server.
func start(ctx context.Context, o *options, stderr io.Writer) (_ *playground, err error) {
	p := &playground{ended: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	level := zap.NewAtomicLevel()
	log := zap.New(terminal.NewLogCore(stderr, level))
	if err := p.startEtcd(); err != nil {
		return nil, err
	}
	if err := p.startServers(ctx, o, log); err != nil {
		return nil, err
	}
	if err := p.startProxy(o, log, level); err != nil {
		return nil, err
	}
	return p, p.awaitReady(ctx)
}

// stop ends everything, in the opposite order of its start: lbproxy lets running calls end, the servers
// deregister and stop, then etcd stops, and its files go.
func (p *playground) stop() error {
	var errs []error
	for i := len(p.ending) - 1; i >= 0; i-- {
		errs = append(errs, p.ending[i]())
	}
	p.ending = nil
	return errors.Join(errs...)
}

func (p *playground) atStop(end func() error) { p.ending = append(p.ending, end) }

func (p *playground) startEtcd() error {
	dir, err := os.MkdirTemp("", "lbproxy-dev-")
	if err != nil {
		return err
	}
	p.atStop(func() error { return os.RemoveAll(dir) })
	etcd, err := embedetcd.Start(dir)
	if err != nil {
		return err
	}
	p.atStop(func() error { etcd.Stop(); return nil })
	p.etcd = etcd.Endpoint()
	return nil
}

func (p *playground) startServers(ctx context.Context, o *options, log *zap.Logger) error {
	if !o.verbose {
		// Registrars warn of keys that someone else writes, and here people are invited to.
		log = zap.NewNop()
	}
	etcd, err := discovery.NewEtcdClient(discovery.EtcdConfig{Endpoints: []string{p.etcd}}, log)
	if err != nil {
		return err
	}
	p.atStop(etcd.Close)
	if p.servers, err = startServers(ctx, etcd, o.weights, log); err != nil {
		return err
	}
	p.atStop(func() error { return stopServers(p.servers) })
	if err := p.adoptWeights(); err != nil {
		return err
	}
	return p.serveWeights()
}

func (p *playground) adoptWeights() error {
	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{p.etcd}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	adopted := make(chan struct{})
	go func() { // ends by cancel
		defer close(adopted)
		adoptWeights(ctx, etcd, p.servers)
	}()
	p.atStop(func() error {
		cancel()
		<-adopted
		return etcd.Close()
	})
	return nil
}

func (p *playground) serveWeights() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	web := &http.Server{Handler: weightHandler(p.servers), ReadHeaderTimeout: adminTimeout}
	served := make(chan struct{})
	go func() { // ends by Close
		defer close(served)
		_ = web.Serve(l) // its error is that of the listener, which nobody but Close closes
	}()
	p.atStop(func() error {
		err := web.Close()
		<-served
		return err
	})
	p.weights = l.Addr().String()
	return nil
}

// proxyConfig is lbproxy's configuration on the etcd at endpoint.
func proxyConfig(o *options, endpoint string) *configs.Config {
	hello := configs.DefaultService()
	hello.Policy = o.policy
	cfg := configs.Default()
	cfg.Listeners = []configs.Listener{{Address: o.listen}}
	cfg.Admin.Address = o.admin
	cfg.Discovery.Etcd.Endpoints = []string{endpoint}
	cfg.Services = map[string]configs.Service{service: hello}
	cfg.DrainTimeout = drainTimeout
	cfg.Log.Level = "warn"
	if o.verbose {
		cfg.Log.Level = "info"
	}
	return cfg
}

func (p *playground) startProxy(o *options, log *zap.Logger, level zap.AtomicLevel) error {
	a, err := app.New(proxyConfig(o, p.etcd), "dev", log, level)
	if err != nil {
		return explainTaken(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // ends by cancel
		p.ended <- a.Run(ctx)
		close(p.ended)
	}()
	p.atStop(func() error {
		http.DefaultClient.CloseIdleConnections() // of status
		cancel()
		return <-p.ended
	})
	p.proxy, p.admin = a.Addrs()[0], a.AdminAddr()
	return nil
}

// explainTaken says what to do about an address that is in use.
func explainTaken(err error) error {
	var listen *net.OpError
	if errors.Is(err, syscall.EADDRINUSE) && errors.As(err, &listen) {
		return fmt.Errorf("another process listens at %s, maybe an lbproxy; stop it, or choose other addresses, "+
			"such as --listen 127.0.0.1:0 --admin 127.0.0.1:0 for any that are free", listen.Addr)
	}
	return err
}

// awaitReady waits until lbproxy is connected to every server and knows its weight.
func (p *playground) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("lbproxy is not connected to all servers after %v", patience))
	defer cancel()
	for {
		status, err := p.status(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		if p.ready(status.Instances) {
			return nil
		}
		select {
		case err := <-p.ended:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pollInterval):
		}
	}
}

func (p *playground) ready(instances []picker.EndpointStatus) bool {
	known := map[string]picker.EndpointStatus{}
	for _, in := range instances {
		known[in.Addr] = in
	}
	for _, s := range p.servers {
		if in := known[s.addr]; in.State != picker.Ready.String() || in.Weight != s.registrar.Status().Weight {
			return false
		}
	}
	return true
}

// status is what lbproxy's admin API says of the service.
func (p *playground) status(ctx context.Context) (s proxy.ServiceStatus, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	url := fmt.Sprintf("http://%s/services/%s", p.admin, service)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return s, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("%s: %s", url, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return s, fmt.Errorf("%s: %w", url, err)
	}
	return s, nil
}
