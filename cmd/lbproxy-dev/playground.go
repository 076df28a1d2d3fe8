package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/internal/app"
	"github.com/lbproxy/lbproxy/internal/embedetcd"
	"github.com/lbproxy/lbproxy/internal/terminal"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/traffic"
)

const (
	patience     = 20 * time.Second // bounds every wait of the start
	drainTimeout = 3 * time.Second
	pollInterval = 10 * time.Millisecond
	adminTimeout = 5 * time.Second
)

// A playground is everything that runs; stop ends it.
type playground struct {
	// Immutable:
	etcd    string // host:port
	servers []*server
	weights string     // host:port of the HTTP server of the servers' weights
	proxy   string     // host:port for calls
	admin   string     // host:port
	ended   chan error // receives why lbproxy ended

	ending []func() error // what stop calls, last first

	progress io.Writer // where start reports what it is doing
}

// start starts a playground and returns when lbproxy is connected to every server.
func start(ctx context.Context, o *options, progress, stderr io.Writer) (_ *playground, err error) {
	p := &playground{ended: make(chan error, 1), progress: progress}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	level := zap.NewAtomicLevelAt(o.logLevel())
	log := zap.New(terminal.NewLogCore(stderr, level))
	if err := p.startEtcd(o.etcd); err != nil {
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

// stop ends everything in the reverse order of start: lbproxy lets running calls finish, the servers deregister and
// stop, then etcd stops and its files are removed.
func (p *playground) stop() error {
	var errs []error
	for i := len(p.ending) - 1; i >= 0; i-- {
		errs = append(errs, p.ending[i]())
	}
	p.ending = nil
	return errors.Join(errs...)
}

func (p *playground) atStop(end func() error) { p.ending = append(p.ending, end) }

func (p *playground) say(format string, args ...any) { fmt.Fprintf(p.progress, format+"\n", args...) }

func (p *playground) startEtcd(at address) error {
	dir, err := os.MkdirTemp("", "lbproxy-dev-")
	if err != nil {
		return err
	}
	p.atStop(func() error { return os.RemoveAll(dir) })
	var etcd *embedetcd.Server
	if endpoint := at.orFree(); endpoint == anyFree {
		p.say("Starting etcd ...")
		etcd, err = embedetcd.Start(dir)
	} else {
		p.say("Starting etcd at %s ...", endpoint)
		etcd, err = embedetcd.StartAt(dir, endpoint)
	}
	if err != nil {
		return at.explain(err)
	}
	p.atStop(func() error { etcd.Stop(); return nil })
	p.etcd = etcd.Endpoint()
	return nil
}

func (p *playground) startServers(ctx context.Context, o *options, log *zap.Logger) error {
	if !o.verbose {
		// Registrars warn when someone else writes their key, which the playground invites people to do.
		log = zap.NewNop()
	}
	client, err := etcd.NewClient(etcd.Config{Endpoints: []string{p.etcd}}, log)
	if err != nil {
		return err
	}
	p.atStop(client.Close)
	p.say("Starting %d servers of the service %q, and registering them ...", len(o.weights), service)
	if p.servers, err = startServers(ctx, client, o.servers, o.weights, log); err != nil {
		return err
	}
	p.atStop(func() error { return stopServers(p.servers) })
	if err := p.adoptWeights(); err != nil {
		return err
	}
	return p.serveWeights(o.weightAddress)
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

func (p *playground) serveWeights(at address) error {
	l, err := at.listen()
	if err != nil {
		return err
	}
	web := &http.Server{Handler: weightHandler(p.servers), ReadHeaderTimeout: adminTimeout}
	served := make(chan struct{})
	go func() { // ends by Close
		defer close(served)
		_ = web.Serve(l) // returns when Close closes the listener
	}()
	p.atStop(func() error {
		err := web.Close()
		<-served
		return err
	})
	p.weights = l.Addr().String()
	return nil
}

// proxyConfig is lbproxy's configuration on the playground's etcd.
func (p *playground) proxyConfig(o *options) *configs.Config {
	hello := traffic.DefaultService()
	hello.Policy = o.policy
	cfg := configs.Default()
	cfg.Listeners = []configs.Listener{{Address: o.listen.orFree()}}
	cfg.Admin.Address = o.admin.orFree()
	cfg.Discovery.Etcd.Endpoints = []string{p.etcd}
	cfg.Services = map[string]traffic.Service{service: hello}
	cfg.DrainTimeout = drainTimeout
	cfg.Log.Level = o.logLevel().String()
	return cfg
}

func (o *options) logLevel() zapcore.Level {
	if o.verbose {
		return zap.InfoLevel
	}
	return zap.WarnLevel
}

func (p *playground) startProxy(o *options, log *zap.Logger, level zap.AtomicLevel) error {
	p.say("Starting lbproxy, and connecting it to them ...")
	a, err := app.New(p.proxyConfig(o), "dev", log, level)
	if err != nil {
		return o.explain(err)
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

// explain adds what helps if one of lbproxy's addresses is taken.
func (o *options) explain(err error) error {
	var listen *app.ListenError
	switch {
	case !errors.As(err, &listen):
		return err
	case listen.Key == "admin.address":
		return o.admin.advise(listen.Err)
	}
	return o.listen.advise(listen.Err)
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
