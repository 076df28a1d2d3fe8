// Package e2e tells the stories that users live: a real etcd, lbproxy wired as its binary wires it, real gRPC
// servers registered by the real registrar, real gRPC clients.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/internal/app"
	"github.com/lbproxy/lbproxy/internal/embedetcd"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/traffic"
)

// engines are those that every story is told on.
var engines = []engine{
	{name: configs.EngineRelay, differs: differencesOfRelay},
	{name: configs.EngineGRPCProxy, differs: differencesOfGRPCProxy},
}

// engine is one by its name in the configuration, and what can be seen of it.
type engine struct {
	name    string
	differs []difference
}

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(stories{m}) }

// stories is all tests, between the start and the end of the etcd they share.
type stories struct{ *testing.M }

func (s stories) Run() int {
	makeFatalsPanic()
	var err error
	if scratch, err = os.MkdirTemp("", "lbproxy-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	code := s.M.Run()
	if etcd, err := sharedEtcd(); err == nil {
		etcd.Stop()
	}
	return code
}

// scratch is a directory for what all stories share.
var scratch string

// sharedEtcd is for the stories that leave etcd as it is.
var sharedEtcd = sync.OnceValues(func() (*embedetcd.Server, error) { return embedetcd.Start(scratch) })

// world is where a story takes place: an etcd, or a root of its own in the shared one, and an engine.
type world struct {
	t      testing.TB
	engine engine
	etcd   string // host:port
	root   string
	client *etcd.Client
	ttl    time.Duration // of registrations: how long they last without their registrar
}

// onEveryEngine tells a story on each engine, in a world of its own, while others are told: stories mostly wait.
func onEveryEngine(t *testing.T, story func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			story(t, newWorld(t, e))
		})
	}
}

// aloneOnEveryEngine tells a story on each engine while no other is told: it needs the machine, or measures it.
func aloneOnEveryEngine(t *testing.T, story func(t *testing.T, w *world)) {
	t.Helper()
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) { story(t, newWorld(t, e)) })
	}
}

func newWorld(t testing.TB, e engine) *world {
	t.Helper()
	etcd, err := sharedEtcd()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, engine: e, etcd: etcd.Endpoint(), ttl: time.Minute,
		root: path.Join("/", t.Name(), strconv.FormatInt(time.Now().UnixNano(), 36)),
	}
	w.client = w.newClient()
	return w
}

// on moves the world to another etcd.
func (w *world) on(etcd string) {
	w.t.Helper()
	w.etcd = etcd
	w.client = w.newClient()
}

func (w *world) newClient() *etcd.Client {
	w.t.Helper()
	c, err := etcd.NewClient(etcd.Config{
		Endpoints: []string{w.etcd}, Root: w.root, DialTimeout: time.Second,
	}, zap.NewNop())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// lbproxy is a running proxy.
type lbproxy struct {
	*app.App
	t     testing.TB
	cfg   *configs.Config // what it was started with, or last told to reload
	level zap.AtomicLevel
	logs  *observer.ObservedLogs
	term  func() // what SIGTERM does
	ended <-chan error
}

// config is what the proxies of this world start with.
func (w *world) config(change ...func(*configs.Config)) *configs.Config {
	cfg := configs.Default()
	cfg.Engine = w.engine.name
	cfg.Relay.Workers = 2 // so that every story is told across them
	cfg.Listeners = []configs.Listener{{Address: newAddr(w.t)}}
	cfg.Admin.Address = newAddr(w.t)
	cfg.Discovery.Etcd.Endpoints = []string{w.etcd}
	cfg.Discovery.Etcd.Root = w.root
	cfg.Discovery.Etcd.DialTimeout = time.Second
	for _, c := range change {
		c(cfg)
	}
	return cfg
}

// startProxy runs a proxy until the test ends, or until it is stopped.
func (w *world) startProxy(change ...func(*configs.Config)) *lbproxy {
	w.t.Helper()
	p := &lbproxy{t: w.t, cfg: w.config(change...), level: zap.NewAtomicLevel()}
	var observed zapcore.Core
	observed, p.logs = observer.New(p.level)
	log := zaptest.NewLogger(w.t, zaptest.Level(zap.ErrorLevel), zaptest.WrapOptions(
		zap.WrapCore(func(c zapcore.Core) zapcore.Core { return zapcore.NewTee(c, observed) })))
	a, err := app.New(p.cfg, "e2e", log, p.level)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }() // ends by term; stop waits for it
	p.App, p.term, p.ended = a, cancel, ended
	w.t.Cleanup(p.stop)
	return p
}

// stop ends the proxy as SIGTERM does and waits until it has ended, which it must soon. Stopping again does nothing.
func (p *lbproxy) stop() {
	p.t.Helper()
	p.term()
	if p.ended == nil {
		return
	}
	ended := p.ended
	p.ended = nil
	select {
	case err := <-ended:
		if err != nil {
			p.t.Error(err)
		}
	case <-time.After(patience):
		p.t.Fatalf("the proxy has not ended within %s", patience)
	}
}

// reload makes the proxy take over a changed configuration, as SIGHUP does.
func (p *lbproxy) reload(change ...func(*configs.Config)) {
	next := *p.cfg
	for _, c := range change {
		c(&next)
	}
	p.cfg = &next
	p.Reload(&next)
}

// listed makes the proxy watch services from the start.
func listed(services ...string) func(*configs.Config) {
	return func(cfg *configs.Config) {
		cfg.Services = map[string]traffic.Service{}
		for _, name := range services {
			cfg.Services[name] = traffic.DefaultService()
		}
	}
}

// listedAs is listed for one service with settings of its own.
func listedAs(service string, set func(*traffic.Service)) func(*configs.Config) {
	return func(cfg *configs.Config) {
		s := traffic.DefaultService()
		set(&s)
		cfg.Services = map[string]traffic.Service{service: s}
	}
}

// dial connects a client to the proxy. Authority is what the client calls the server; empty, its address.
func (p *lbproxy) dial(authority string) *grpc.ClientConn {
	p.t.Helper()
	return dial(p.t, "passthrough:///"+p.Addrs()[0], grpc.WithAuthority(authority))
}

func dial(t testing.TB, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(target, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// admin gets a page of the admin API.
func (p *lbproxy) admin(path string) (code int, body string) {
	p.t.Helper()
	return get(p.t, "http://"+p.AdminAddr()+path)
}

func get(t testing.TB, url string) (code int, body string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// service is what the admin API says of a service.
func (p *lbproxy) service(name string) proxy.ServiceStatus {
	p.t.Helper()
	return getService(p.t, p.AdminAddr(), name)
}

// getService gets what the admin API says of a service; nothing if it is not watched.
func getService(t testing.TB, admin, name string) (s proxy.ServiceStatus) {
	t.Helper()
	if code, body := get(t, "http://"+admin+"/services/"+name); code == http.StatusOK {
		if err := json.Unmarshal([]byte(body), &s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// metrics is every series of /metrics with its value, by its name and labels as they stand there.
func (p *lbproxy) metrics() map[string]float64 {
	p.t.Helper()
	_, page := p.admin("/metrics")
	return parseMetrics(p.t, page)
}

func parseMetrics(t testing.TB, page string) map[string]float64 {
	t.Helper()
	series := map[string]float64{}
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			t.Fatalf("metrics: %q: %v", line, err)
		}
		series[line[:i]] = value
	}
	return series
}

// awaitReady waits until the proxy is connected to n instances of a service, and nothing else is left of it.
func (p *lbproxy) awaitReady(service string, n int) {
	p.t.Helper()
	awaitReady(p.t, p.AdminAddr(), service, n)
}

func awaitReady(t testing.TB, admin, service string, n int) {
	t.Helper()
	await(t, fmt.Sprintf("%d ready instances of %s", n, service), func() bool {
		instances := getService(t, admin, service).Instances
		for _, in := range instances {
			if in.State != picker.Ready.String() {
				return false
			}
		}
		return len(instances) == n
	})
}

// await waits until what holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %s", what, patience)
		}
		time.Sleep(5 * time.Millisecond) // between one look and the next
	}
}

// within ends the context of a call that must end soon.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
