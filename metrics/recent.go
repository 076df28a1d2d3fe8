package metrics

import (
	"math/bits"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
)

// Recent says what became of the calls of the last minute: for people who look at a proxy, not at Prometheus.
type Recent struct {
	CallsPerSecond float64 `json:"calls_per_second"`
	ErrorShare     float64 `json:"error_share"` // of calls whose status means that the server fails, see failing
	P99Seconds     float64 `json:"p99_seconds"`
}

// failing says whether a code means that the server fails, not that it refuses a request: OpenTelemetry's list for
// servers' spans, and RESOURCE_EXHAUSTED, since a server that is full deserves a look.
func failing(code codes.Code) bool {
	switch code {
	case codes.OK, codes.Canceled, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied,
		codes.FailedPrecondition, codes.Aborted, codes.OutOfRange, codes.Unauthenticated:
		return false
	}
	return true
}

// Durations are counted in buckets whose width is an eighth to a quarter of their value: four of one unit, then four
// for every doubling, up to 67 s. With five slices of time that is 1.8 kB.
const (
	durationUnit     = 16 * time.Microsecond
	bucketsPerOctave = 4
	numDurations     = bucketsPerOctave * 21

	sliceLength = 15 * time.Second
	numSlices   = 5 // the running one, and four for the minute before it
)

// recentSlice is the calls that ended in one slice of time.
type recentSlice struct {
	number    atomic.Int64 // of the slice of time
	failed    atomic.Uint32
	durations [numDurations]atomic.Uint32
}

// recent is the calls of the last minute. Counting takes no lock; where several workers turn to a new slice of
// time at the same moment, those that come second lose a call each.
type recent struct {
	began  time.Time
	slices [numSlices]recentSlice
}

// sliceNumber numbers slices of time from numSlices on: unused ones, which have 0, are then long gone.
func (r *recent) sliceNumber(now time.Time) int64 {
	return numSlices + int64(now.Sub(r.began)/sliceLength)
}

// count counts a call that has ended now.
func (r *recent) count(code codes.Code, took time.Duration, now time.Time) {
	number := r.sliceNumber(now)
	s := &r.slices[number%numSlices]
	if have := s.number.Load(); have != number && !s.turn(have, number) {
		return
	}
	s.durations[durationIndex(took)].Add(1)
	if failing(code) {
		s.failed.Add(1)
	}
}

// turn makes s the slice of a later time. It fails if someone else does.
func (s *recentSlice) turn(from, to int64) bool {
	const turning = -1
	if from == turning || from > to || !s.number.CompareAndSwap(from, turning) {
		return false
	}
	s.failed.Store(0)
	for i := range s.durations {
		s.durations[i].Store(0)
	}
	s.number.Store(to)
	return true
}

// durationIndex is the bucket of a duration.
func durationIndex(d time.Duration) int {
	units := uint64(max(0, d) / durationUnit)
	if units < bucketsPerOctave {
		return int(units)
	}
	octave := bits.Len64(units) - 3 // 0 for 4 to 7 units
	return min(numDurations-1, bucketsPerOctave*octave+int(units>>octave))
}

// durationOf is the middle of a bucket.
func durationOf(i int) time.Duration {
	if i < bucketsPerOctave {
		return time.Duration(2*i+1) * durationUnit / 2
	}
	octave := i/bucketsPerOctave - 1
	return time.Duration(2*(bucketsPerOctave+i%bucketsPerOctave)+1) << octave * durationUnit / 2
}

// read sums up what has been counted; nil if that is nothing.
func (r *recent) read(now time.Time) *Recent {
	var durations [numDurations]uint64
	var calls, failed uint64
	current := r.sliceNumber(now)
	for i := range r.slices {
		s := &r.slices[i]
		if n := s.number.Load(); n <= current-numSlices || n > current {
			continue
		}
		failed += uint64(s.failed.Load())
		for j := range s.durations {
			n := uint64(s.durations[j].Load())
			durations[j] += n
			calls += n
		}
	}
	if calls == 0 {
		return nil
	}
	// Four slices that are over, and what has passed of the running one; or less, if there was no call before.
	age := now.Sub(r.began)
	covered := max(time.Second, min(age, (numSlices-1)*sliceLength+age%sliceLength))
	result := &Recent{
		CallsPerSecond: float64(calls) / covered.Seconds(),
		ErrorShare:     min(1, float64(failed)/float64(calls)), // a call is counted in two steps
	}
	rank := calls - calls/100
	for i, n := range durations {
		if rank <= n {
			result.P99Seconds = durationOf(i).Seconds()
			break
		}
		rank -= n
	}
	return result
}

// RecentCalls counts the calls of the last minute; the zero RecentCalls has none. It takes no memory until a call has
// ended: of ten thousand endpoints most may never get one. Its methods may be called by many goroutines at once.
type RecentCalls struct{ r atomic.Pointer[recent] }

// Ended counts a call that has ended now.
func (c *RecentCalls) Ended(code codes.Code, took time.Duration, now time.Time) {
	r := c.r.Load()
	if r == nil {
		c.r.CompareAndSwap(nil, &recent{began: now})
		r = c.r.Load()
	}
	r.count(code, took, now)
}

// Read says what became of the calls; nil if there were none.
func (c *RecentCalls) Read(now time.Time) *Recent {
	if r := c.r.Load(); r != nil {
		return r.read(now)
	}
	return nil
}
