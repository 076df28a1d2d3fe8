package transport

import (
	"fmt"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/internal/logsample"
	"github.com/lbproxy/lbproxy/metrics"
)

// Descriptors deals out the file descriptors that the process may have (RLIMIT_NOFILE), so that neither side of it
// leaves the other without. Some are kept for all else: the admin API, etcd, names to be looked up, files. The others
// are for callers and backends: either may have what the other does not use, but for a part that is kept for it.
type Descriptors struct {
	// Immutable:
	limit   int // RLIMIT_NOFILE
	shared  int // of these, by callers and backends
	metrics *metrics.Descriptors
	log     *zap.Logger

	mu        sync.Mutex // protects:
	callers   int        // that callers have
	backends  int        // that endpoints have taken
	needed    int        // by all endpoints
	partWith  func(n int) int
	relieving bool // relieve goes on
}

const (
	// maxReserve is kept for all else, or a quarter of all if that is less.
	maxReserve = 128
	// spareBackends is for endpoints to come, beside twice as many as there are.
	spareBackends = 64
	// maxRoom is for how many callers to come those that are idle make room.
	maxRoom = 128
	// reliefInterval is how long callers that were asked to leave have for it before others are.
	reliefInterval = time.Second
)

// RaiseDescriptorLimit lets the process have as many file descriptors as it may ask for. Go has done so already, but
// for one, and would give the processes that it starts the limit of before; now it gives them this one.
func RaiseDescriptorLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// DescriptorLimit is how many file descriptors the process may have.
func DescriptorLimit() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024 // what most systems begin with; there is no reason for the call to fail
	}
	return int(min(uint64(limit.Cur), 1<<30))
}

// NewDescriptors deals out limit descriptors, of which some are in use for as long as the process lives.
func NewDescriptors(limit, inUse int, m *metrics.Descriptors, log *zap.Logger) *Descriptors {
	reserve := inUse + min(limit/4, maxReserve)
	d := &Descriptors{
		limit: limit, shared: max(limit-reserve, limit/4), metrics: m,
		log: log.WithOptions(logsample.First(1, time.Minute)),
	}
	log.Info("file descriptors", zap.Int("limit", limit),
		zap.Int("for_callers", d.maxCallers()), zap.Int("for_backends", d.maxBackends()))
	return d
}

// maxCallers leaves out what the endpoints need, in a restart of all of them at new addresses too.
func (d *Descriptors) maxCallers() int {
	return d.shared - max(d.backends, min(2*d.needed+spareBackends, d.shared/2))
}

func (d *Descriptors) maxBackends() int { return d.shared - max(d.callers, d.shared/3) }

// crowd is how many callers there are more than leave some room.
func (d *Descriptors) crowd() int {
	most := d.maxCallers()
	return d.callers - (most - min(max(most/8, 1), maxRoom))
}

// OnCrowd has partWith called, now and then, while callers have nearly all that they may. It asks up to n callers to
// leave that are idle, and returns how many there are.
func (d *Descriptors) OnCrowd(partWith func(n int) int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.partWith = partWith
}

// admit tells whether there is a descriptor for one more caller, which then has it until CallerGone.
func (d *Descriptors) admit() bool {
	d.mu.Lock()
	most := d.maxCallers()
	admitted := d.callers < most
	if admitted {
		d.callers++
	}
	d.startRelief()
	d.mu.Unlock()
	if !admitted {
		d.metrics.Short(metrics.ShortageCaller, 1)
		d.log.Warn("callers are turned away: they have all the file descriptors that they may take; "+
			"raise RLIMIT_NOFILE (LimitNOFILE in a systemd unit, ulimit -n elsewhere)",
			zap.Int("limit", d.limit), zap.Int("callers", most))
	}
	return admitted
}

// CallerGone gives back a caller's descriptor.
func (d *Descriptors) CallerGone() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.callers--
}

// startRelief has idle callers make room, if there is need. The caller holds mu.
func (d *Descriptors) startRelief() {
	if d.partWith != nil && !d.relieving && d.crowd() > 0 {
		d.relieving = true
		go d.relieve() // ends soon
	}
}

// relieve parts with some idle callers, and does so again and again while there is need.
func (d *Descriptors) relieve() {
	d.mu.Lock()
	n, partWith := d.crowd(), d.partWith
	d.relieving = n > 0
	d.mu.Unlock()
	if n <= 0 {
		return
	}
	if n = partWith(n); n > 0 {
		d.metrics.Short(metrics.ShortageIdleCaller, n)
		d.log.Warn("idle callers are asked to connect anew when they have calls: callers have nearly all the file descriptors "+
			"that they may take; raise RLIMIT_NOFILE (LimitNOFILE in a systemd unit, ulimit -n elsewhere)",
			zap.Int("limit", d.limit), zap.Int("asked", n))
	}
	time.AfterFunc(reliefInterval, d.relieve) // comes to an end with the crowd
}

// Share is the descriptors of an endpoint. It takes as many as there are workers, or none: with a connection to some
// of them it would be of no use.
type Share struct {
	d       *Descriptors
	workers int

	// d.mu protects:
	open    int // connections, and attempts to make one
	taken   int // descriptors
	without bool
	closed  bool
}

// Share returns the share of one more endpoint, to which each of so many workers connects.
func (d *Descriptors) Share(workers int) *Share {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.needed += workers
	return &Share{d: d, workers: workers}
}

// Take is called before a connection is tried. If it returns nil, Return is called when there is none any more.
func (s *Share) Take() error {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	more := max(s.open+1, s.workers) - s.taken
	if d.backends+more > d.maxBackends() {
		s.setWithout(s.open == 0)
		d.startRelief()
		return fmt.Errorf("no file descriptor is left for it: RLIMIT_NOFILE is %d, of which all connections to backends "+
			"get %d at most; raise it (LimitNOFILE in a systemd unit, ulimit -n elsewhere)", d.limit, d.shared-d.shared/3)
	}
	s.setWithout(false)
	s.open++
	s.taken += more
	d.backends += more
	return nil
}

func (s *Share) setWithout(without bool) {
	without = without && !s.closed
	switch {
	case without && !s.without:
		s.d.metrics.EndpointWithout()
	case s.without && !without:
		s.d.metrics.EndpointWithoutEnded()
	}
	s.without = without
}

// Return takes back a Take.
func (s *Share) Return() {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	s.open--
	left := 0
	if s.open > 0 {
		left = max(s.open, s.workers)
	}
	d.backends -= s.taken - left
	s.taken = left
}

// Close is called when the endpoint is gone. What it has taken may be returned later, and it may still try to take.
func (s *Share) Close() {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.d.needed -= s.workers
	s.closed = true
	s.setWithout(false)
}
