package metrics_test

import (
	"math"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/metrics"
)

// timeline is an endpoint, and a time that the test moves.
type timeline struct {
	*metrics.Endpoint
	now time.Time
}

func newTimeline() *timeline {
	return &timeline{metrics.NewEndpoints(prometheus.NewRegistry()).Join("hello", "10.0.0.7:1001"), time.Now()}
}

// flow ends rate calls a second, for so long.
func (l *timeline) flow(long time.Duration, rate int, code codes.Code, took time.Duration) {
	for end := l.now.Add(long); l.now.Before(end); {
		l.now = l.now.Add(time.Second / time.Duration(rate))
		l.CallEnded(code, took, l.now)
	}
}

func (l *timeline) want(t *testing.T, rate, errorShare, p99 float64) {
	t.Helper()
	got := l.Recent(l.now)
	if got == nil {
		t.Fatalf("there were no calls, want %v a second", rate)
	}
	near := func(got, want float64) bool { return math.Abs(got-want) <= 0.125*want }
	if !near(got.CallsPerSecond, rate) || !near(got.ErrorShare, errorShare) || !near(got.P99Seconds, p99) {
		t.Errorf("got %+v, want %v calls a second, error share %v, p99 %v", *got, rate, errorShare, p99)
	}
}

func TestRecentCalls(t *testing.T) {
	l := newTimeline()
	if got := l.Recent(l.now); got != nil {
		t.Errorf("before the first call: %+v", got)
	}
	l.flow(2*time.Second, 50, codes.OK, 3*time.Millisecond)
	l.want(t, 50, 0, 0.003) // of two seconds, not of a minute
	l.flow(10*time.Minute, 10, codes.OK, 3*time.Millisecond)
	l.want(t, 10, 0, 0.003)
	l.flow(time.Hour, 10, codes.Unavailable, 100*time.Millisecond)
	l.want(t, 10, 1, 0.1)
	l.now = l.now.Add(80 * time.Second)
	if got := l.Recent(l.now); got != nil {
		t.Errorf("80 s after the last call: %+v", got)
	}
	l.flow(75*time.Second, 4, codes.OK, time.Second)
	l.want(t, 4, 0, 1)
}

func TestRecentShares(t *testing.T) {
	for _, test := range []struct {
		name            string
		every           int // one call of so many
		code            codes.Code
		took            time.Duration
		errorShare, p99 float64
	}{
		{"one of twenty fails slowly", 20, codes.DeadlineExceeded, 2 * time.Second, 0.05, 2},
		{"one of a thousand fails slowly", 1000, codes.Internal, 2 * time.Second, 0.001, 0.005},
		{"a request is refused", 4, codes.InvalidArgument, time.Millisecond, 0, 0.005},
		{"callers give up", 4, codes.Canceled, 10 * time.Second, 0, 10},
		{"a code that gRPC does not know", 4, codes.Code(4711), time.Microsecond, 0.25, 0.005},
		{"longer than anything", 4, codes.OK, time.Hour, 0, 67},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newTimeline()
			for i := range 10_000 {
				l.now = l.now.Add(time.Millisecond)
				if i%test.every == 0 {
					l.CallEnded(test.code, test.took, l.now)
				} else {
					l.CallEnded(codes.OK, 5*time.Millisecond, l.now)
				}
			}
			l.want(t, 1000, test.errorShare, test.p99)
		})
	}
}

func TestRecentDurationsAreTrueToAnEighth(t *testing.T) {
	for took := 100 * time.Microsecond; took < time.Minute; took += took / 7 {
		l := newTimeline()
		l.CallEnded(codes.OK, took, l.now)
		if got := l.Recent(l.now).P99Seconds; math.Abs(got-took.Seconds()) > took.Seconds()/8 {
			t.Errorf("p99 = %v s, want %v", got, took)
		}
	}
}

func TestRecentByManyAtOnce(t *testing.T) {
	l := newTimeline()
	began := l.now
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for now := began; now.Before(began.Add(5 * time.Minute)); now = now.Add(10 * time.Millisecond) {
				l.CallEnded(codes.OK, time.Millisecond, now)
			}
		})
	}
	callers.Wait()
	got := l.Recent(began.Add(5*time.Minute - time.Nanosecond))
	// They run through the minutes within moments, so that some are slices ahead of others.
	if got == nil || got.CallsPerSecond > 400*1.01 {
		t.Errorf("got %+v, want at most 400 calls a second", got)
	}
}
