package netpoll

import (
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is one whose connections have nothing to write.
type host struct{ mu sync.Mutex }

func (h *host) Age() time.Duration   { return 0 }
func (h *host) Lock(time.Duration)   { h.mu.Lock() }
func (h *host) Flush()               {}
func (h *host) Unlock()              { h.mu.Unlock() }
func (h *host) Pending() bool        { return false }
func (h *host) Busy() bool           { return false }
func (h *host) Expire()              {}
func (h *host) Worked(time.Duration) {}

// Where there is no file descriptor left for one of its parts, there is no poller, and nothing of it stays open.
func TestPollerWithoutDescriptors(t *testing.T) {
	first, failures := lowestFree(t), 0
	for limit := uint64(first); ; limit++ {
		limitDescriptors(t, limit)
		p, err := NewPoller(nil, false)
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
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
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
	p, err := NewPoller(&host{}, false)
	if err != nil {
		t.Fatal(err)
	}
	go p.Run() // ends by Close
	defer p.Close()
	limitDescriptors(t, uint64(lowestFree(t)))
	goroutines := runtime.NumGoroutine()
	err = p.Attach(theirs, nil, func(Driver) Conn { t.Error("what never began has begun"); return nil }, func() { t.Error("what never began has ended") })
	if !errors.Is(err, syscall.EMFILE) {
		t.Errorf("attach: %v, want %v", err, syscall.EMFILE)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines more", n-goroutines)
	}
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read: %v, want the end", err)
	}
}

// limitDescriptors keeps the process from getting a descriptor from n on, for the time of the test.
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
