//go:build linux

package main

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Every scenario runs, and counts what it should.
func TestLoad(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.Name, func(t *testing.T) {
			if s.Kind == idle {
				s.Conns = 10
			}
			_, address := startEcho(t)
			j := job{
				Scenario: s, Target: address, Proxy: os.Getpid(), Backends: []int{os.Getpid()},
				Warmup: 10 * time.Millisecond, Duration: 100 * time.Millisecond,
			}
			m, err := j.run(t.Context())
			if err != nil || !m.valid() {
				t.Fatalf("got error %v, and %d in calls: %s", err, m.Errors, m.Error)
			}
			if m.Ops == 0 || m.Seconds < j.Duration.Seconds() {
				t.Errorf("got %d %s in %v s", m.Ops, s.plural(), m.Seconds)
			}
			if s.Kind == idle {
				return
			}
			if m.Bytes != m.Ops*int64(s.Payload) {
				t.Errorf("got %d bytes in %d messages of %d", m.Bytes, m.Ops, s.Payload)
			}
			if m.P50Micros <= 0 || m.P99Micros < m.P50Micros || m.PeakRSS == 0 {
				t.Errorf("got p50 %v µs, p99 %v µs, peak %v", m.P50Micros, m.P99Micros, m.PeakRSS)
			}
			// The process is its own proxy, so this is the same CPU.
			if m.ProxyCPU <= 0 || len(m.BackendCPU) != 1 || m.BackendCPU[0] <= 0 || m.CallerCPU <= 0 {
				t.Errorf("got CPU of proxy %v s, backends %v s, callers %v s", m.ProxyCPU, m.BackendCPU, m.CallerCPU)
			}
		})
	}
}

// A proxy that disappears meanwhile makes the measurement invalid.
func TestLoadTellsErrors(t *testing.T) {
	for _, s := range scenarios {
		if s.Kind == idle {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			server, address := startEcho(t)
			j := job{Scenario: s, Target: address, Warmup: 50 * time.Millisecond, Duration: 50 * time.Millisecond}
			conns, err := j.dial(t.Context(), s.Conns)
			defer closeAll(conns)
			if err != nil {
				t.Fatal(err)
			}
			server.Stop()
			if m, err := j.drive(t.Context(), conns); err != nil || m.valid() || m.Error == "" {
				t.Errorf("got %v, %d errors, the first %q", err, m.Errors, m.Error)
			}
		})
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	_, address := startEcho(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer time.AfterFunc(50*time.Millisecond, cancel).Stop()
	j := job{Scenario: scenarios[0], Target: address, Duration: time.Hour}
	if m, err := j.run(ctx); err == nil {
		t.Errorf("got %+v", m)
	}
}

// startEcho serves what "bench echo" serves until the test ends.
func startEcho(t *testing.T) (server *grpc.Server, address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server = newEchoServer()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }() // ends with Stop
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return server, listener.Addr().String()
}
