package relay

import (
	"errors"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/lbproxy/lbproxy/metrics"
)

// Where there is no file descriptor left for one of its parts, there is no poller, and nothing of it stays open.
func TestPollerWithoutDescriptors(t *testing.T) {
	s := newWorker(testConfig, 0, metrics.NewRelay(prometheus.NewRegistry(), 1, 1), zap.NewNop())
	first, failures := lowestFree(t), 0
	for limit := uint64(first); ; limit++ {
		limitDescriptors(t, limit)
		p, err := newPoller(s)
		if err == nil {
			p.release()
			break
		}
		if failures++; failures > 1000 {
			t.Fatalf("a poller is never made: %v", err)
		}
	}
	if failures < 3 {
		t.Errorf("%d pollers had too few descriptors, want one for each of the three", failures)
	}
	if got := lowestFree(t); got != first {
		t.Errorf("the lowest free descriptor is %d, want %d as before", got, first)
	}
}

func lowestFree(t *testing.T) int {
	t.Helper()
	fd, err := unix.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	return fd
}

// A socket that the poller cannot take over for want of a descriptor is closed: goroutines would drive it for life.
func TestTakingOverWithoutDescriptors(t *testing.T) {
	l, _ := listenTCP(t)
	defer l.Close()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	s := newWorker(testConfig, 0, metrics.NewRelay(prometheus.NewRegistry(), 1, 1), zap.NewNop())
	s.start(newPoller)
	defer s.close()
	limitDescriptors(t, uint64(lowestFree(t)))
	goroutines := runtime.NumGoroutine()
	c, err := s.attach(theirs, func() { t.Error("what never began has ended") }, func(d driver) *conn { return s.core.newCaller(d, nil) })
	if c != nil || !errors.Is(err, syscall.EMFILE) {
		t.Errorf("attach: %v, %v; want %v", c, err, syscall.EMFILE)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines more", n-goroutines)
	}
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read: %v, want the end", err)
	}
}

// limitDescriptors has the process get no descriptor from n on, for the time of the test.
func limitDescriptors(t *testing.T, n uint64) {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &was) })
}
