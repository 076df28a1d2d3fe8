package relay

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/lbproxy/lbproxy/metrics"
)

// Where there is no file descriptor left for one of its parts, there is no poller, and nothing of it stays open.
func TestPollerWithoutDescriptors(t *testing.T) {
	s := newShard(testConfig, 0, metrics.New(prometheus.NewRegistry(), "test").Relay(1, 1), zap.NewNop())
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &was)
	first, failures := lowestFree(t), 0
	for limit := uint64(first); ; limit++ {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: was.Max}); err != nil {
			t.Fatal(err)
		}
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
