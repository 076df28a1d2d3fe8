package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/transport"
	"github.com/lbproxy/lbproxy/traffic"
)

// connected is an engine in simulated time, whose connections to backends are pipes to what the test makes of them.
type connecting struct {
	t         *testing.T
	engine    *Engine
	services  *proxy.Directory
	snapshots chan discovery.Snapshot
	logs      *observer.ObservedLogs
	backends  sync.WaitGroup
	synsLost  atomic.Bool // until the kernel has sent the third

	mu     sync.Mutex
	dialed []time.Time
	open   int // connections
}

// backendEnd is what a backend does with a connection. What it returns from is closed.
type backendEnd func(c net.Conn)

// inSimulatedTime has workers connect to one instance, whose n-th connection is end(n)'s; nil refuses it.
func inSimulatedTime(t *testing.T, workers int, end func(n int) backendEnd, do func(x *connecting)) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		x := &connecting{t: t, snapshots: make(chan discovery.Snapshot), logs: logs}
		cfg := testConfig
		cfg.Workers = workers
		reg := prometheus.NewRegistry()
		x.services = proxy.NewDirectory(proxy.DirectoryConfig{
			Source: published(x.snapshots), IdleRelease: time.Hour, Log: zap.New(core),
			Calls: metrics.NewCalls(reg), Endpoints: metrics.NewEndpoints(reg),
		})
		dialer := transport.NewDialer()
		dialer.Connect = func(ctx context.Context, _ string) (net.Conn, error) { return x.connect(ctx, end) }
		m := metrics.NewRelay(reg, cfg.Workers, cfg.Memory)
		x.engine = newEngine(cfg, proxy.NewRouter(x.services), dialer, plentyOfDescriptors, m, zap.New(core), noPoller)
		x.services.Start(x.engine, rulesOf(traffic.Service{Policy: picker.RoundRobin, WaitTimeout: time.Second}))
		x.register(1, 1)
		do(x)
		x.services.Close()
		x.engine.Shutdown(t.Context())
		x.backends.Wait()
	})
}

// published is a source that publishes what a test sends.
type published chan discovery.Snapshot

func (p published) Run(ctx context.Context, _ string, publish func(discovery.Snapshot)) error {
	for {
		select {
		case s := <-p:
			publish(s)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (x *connecting) register(created, modified int64) {
	x.snapshots <- discovery.Snapshot{Service: service, Instances: []discovery.Instance{
		{Addr: "10.0.0.1:80", Weight: 1, Key: "/hello/10.0.0.1:80", CreateRevision: created, ModRevision: modified, Registered: created},
	}}
	synctest.Wait()
}

func (x *connecting) connect(ctx context.Context, end func(n int) backendEnd) (net.Conn, error) {
	x.mu.Lock()
	x.dialed = append(x.dialed, time.Now())
	serve := end(len(x.dialed) - 1)
	x.mu.Unlock()
	if serve == nil {
		return nil, errors.New("connection refused")
	}
	if x.synsLost.Load() {
		select {
		case <-time.After(3200 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	ours, theirs := net.Pipe()
	x.mu.Lock()
	x.open++
	x.mu.Unlock()
	x.backends.Go(func() {
		serve(theirs)
		theirs.Close()
		x.mu.Lock()
		defer x.mu.Unlock()
		x.open--
	})
	return ours, ctx.Err()
}

func (x *connecting) dials() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.dialed)
}

// opened is how many connections are open.
func (x *connecting) opened() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.open
}

func (x *connecting) instance() picker.EndpointStatus {
	s, _ := x.services.ServiceStatus(service)
	return s.Instances[0]
}

// want checks how the instance stands, and what of its last error.
func (x *connecting) want(state, lastError string) {
	x.t.Helper()
	synctest.Wait()
	if got := x.instance(); got.State != state || !strings.Contains(got.LastError, lastError) {
		x.t.Errorf("the instance is %s, with the error %q; want %s, %q", got.State, got.LastError, state, lastError)
	}
}

// greet reads what comes, and greets after some time.
func greet(c net.Conn, after time.Duration) {
	go io.Copy(io.Discard, c) // ends with the connection
	time.Sleep(after)
	http2.NewFramer(c, nil).WriteSettings()
}

// stays greets after some time and stays.
func stays(after time.Duration) backendEnd {
	return func(c net.Conn) {
		time.Sleep(after)
		go http2.NewFramer(c, nil).WriteSettings() // ends with the connection
		io.Copy(io.Discard, c)
	}
}

func always(end backendEnd) func(int) backendEnd { return func(int) backendEnd { return end } }

// slow is after what time an attempt is told of that goes on.
const slow = 500 * time.Millisecond
