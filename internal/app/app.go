// Package app assembles lbproxy: the source, the services, the engine, the listeners and the admin API. It decides the
// order in which they start and stop, and nothing else.
package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
	"golang.org/x/net/netutil"

	"github.com/lbproxy/lbproxy/admin"
	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/internal/portowner"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// App is one lbproxy. New opens its listeners, Run serves on them until its context is done.
type App struct {
	// Immutable:
	log      *zap.Logger
	level    zap.AtomicLevel
	registry *prometheus.Registry
	reloads  *metrics.Config
	source   source
	engine   proxy.Engine
	services *proxy.Directory

	listeners []proxy.Listener
	admin     net.Listener
	scrape    net.Listener // nil unless metrics.address is set

	config   atomic.Pointer[configs.Config]
	unmet    atomic.Pointer[error] // why the registry has not answered yet; nil once it has
	draining atomic.Bool
	reload   sync.Mutex // held by Reload
}

// New opens everything that cfg names, and fails if it cannot; etcd need not be reachable. If New succeeds, Run must be
// called.
func New(cfg *configs.Config, version string, log *zap.Logger, level zap.AtomicLevel) (*App, error) {
	a := &App{log: log, level: level, registry: prometheus.NewRegistry()}
	a.config.Store(cfg)
	a.unmet.Store(new(errors.New("starting")))
	a.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics.RegisterBuild(a.registry, version)
	a.reloads = metrics.NewConfig(a.registry)
	if err := a.listen(cfg); err != nil {
		a.closeListeners()
		return nil, err
	}
	source, err := newSource(cfg, metrics.NewDiscovery(a.registry), log)
	if err != nil {
		a.closeListeners()
		return nil, err
	}
	a.source = source
	a.services = proxy.NewDirectory(proxy.DirectoryConfig{
		Source:      source,
		IdleRelease: cfg.Discovery.IdleRelease,
		MaxOnDemand: cfg.Discovery.MaxOnDemand,
		Calls:       metrics.NewCalls(a.registry),
		Endpoints:   metrics.NewEndpoints(a.registry),
		Log:         log,
	})
	a.engine = newEngine(cfg, proxy.NewRouter(a.services), a.AdminAddr(), a.registry, log)
	a.setLevel(cfg)
	a.services.Start(a.engine, rules(cfg))
	return a, nil
}

// ListenError is why an address of the configuration cannot be listened at.
type ListenError struct {
	Key string // of the configuration
	Err error  // names who has taken the address, if that is the reason and can be known
}

func (e *ListenError) Error() string { return fmt.Sprintf("%s: %v", e.Key, e.Err) }
func (e *ListenError) Unwrap() error { return e.Err }

func (a *App) listen(cfg *configs.Config) (err error) {
	for i, l := range cfg.Listeners {
		opened, err := transport.Listen(l.Address)
		if err != nil {
			return &ListenError{fmt.Sprintf("listeners[%d].address", i), portowner.Explain(err, l.Address)}
		}
		a.listeners = append(a.listeners, proxy.Listener{Listener: opened, Service: l.Service})
	}
	if a.admin, err = net.Listen("tcp", cfg.Admin.Address); err != nil {
		return &ListenError{"admin.address", portowner.Explain(err, cfg.Admin.Address)}
	}
	if cfg.Metrics.Address == "" {
		return nil
	}
	if a.scrape, err = net.Listen("tcp", cfg.Metrics.Address); err != nil {
		return &ListenError{"metrics.address", portowner.Explain(err, cfg.Metrics.Address)}
	}
	return nil
}

func (a *App) closeListeners() {
	for _, l := range a.listeners {
		l.Close()
	}
	for _, l := range []net.Listener{a.admin, a.scrape} {
		if l != nil {
			l.Close()
		}
	}
}

// Addrs are the addresses that accept calls, in the order of the configuration.
func (a *App) Addrs() []string {
	var addrs []string
	for _, l := range a.listeners {
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

// AdminAddr is the address of the admin API.
func (a *App) AdminAddr() string { return a.admin.Addr().String() }

// Run serves until ctx is done, then lets running calls finish for as long as drain_timeout allows, and returns nil. It
// returns an error if serving ends early.
func (a *App) Run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var serving sync.WaitGroup
	serveHTTP := func(l net.Listener, h http.Handler) *http.Server {
		s := &http.Server{
			Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, ErrorLog: zap.NewStdLog(a.log),
		}
		serving.Go(func() {
			if err := s.Serve(netutil.LimitListener(l, maxWebConnections)); !errors.Is(err, http.ErrServerClosed) {
				fail(&serveError{l, err})
			}
		})
		return s
	}
	state := admin.State{Ready: a.Ready, Services: a.services, Config: a.redactedConfig, Metrics: a.registry}
	web := []*http.Server{serveHTTP(a.admin, admin.Handler(state))}
	if a.scrape != nil {
		web = append(web, serveHTTP(a.scrape, admin.PublicHandler(state)))
	}
	for _, l := range a.listeners {
		serving.Go(func() {
			if err := a.engine.Serve(l); err != nil {
				fail(&serveError{l, err})
			}
		})
		a.log.Info("listening for calls", zap.Stringer("address", l.Addr()), zap.String("service", l.Service))
	}
	a.log.Info("listening for admin", zap.Stringer("address", a.admin.Addr()))
	serving.Go(func() { a.awaitSource(ctx) })

	<-ctx.Done()
	a.drain()
	for _, s := range web {
		s.Close()
	}
	serving.Wait()

	var failed *serveError
	if errors.As(context.Cause(ctx), &failed) {
		return failed
	}
	return nil
}

// maxWebConnections bounds the connections to a web server, to leave descriptors for calls. Further ones wait.
const maxWebConnections = 32

// serveError is why a listener stopped accepting.
type serveError struct {
	l   net.Listener
	err error
}

func (e *serveError) Error() string { return fmt.Sprintf("serving on %s: %v", e.l.Addr(), e.err) }
func (e *serveError) Unwrap() error { return e.err }

// drain shuts down in order: not ready, stop accepting, GOAWAY, running calls finish, close everything.
func (a *App) drain() {
	timeout := a.config.Load().DrainTimeout
	a.draining.Store(true)
	a.log.Info("draining", zap.Duration("timeout", timeout))
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	a.engine.Shutdown(ctx)
	a.services.Close()
	a.source.Close()
	a.log.Info("drained", zap.Duration("took", time.Since(start)))
}
