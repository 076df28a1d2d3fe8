package transport_test

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// dealer is descriptors that are dealt out, and what is said of it.
type dealer struct {
	*transport.Descriptors
	t    *testing.T
	reg  *prometheus.Registry
	logs *observer.ObservedLogs
}

func newDealer(t *testing.T, limit, inUse int) *dealer {
	core, logs := observer.New(zapcore.WarnLevel)
	reg := prometheus.NewRegistry()
	return &dealer{transport.NewDescriptors(limit, inUse, metrics.NewDescriptors(reg), zap.New(core)), t, reg, logs}
}

// knocks are what a listener accepts: connections, and errors.
type knocks chan any

func (k knocks) Accept() (net.Conn, error) {
	switch next := (<-k).(type) {
	case net.Conn:
		return next, nil
	case error:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: next}
	}
	return nil, net.ErrClosed
}

func (knocks) Close() error   { return nil }
func (knocks) Addr() net.Addr { return &net.TCPAddr{} }

// caller knocks, and tells whether it was let in. If not, its connection is closed.
func (d *dealer) caller() (in bool) {
	d.t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	l := make(knocks, 2)
	l <- theirs
	close(l)
	c, err := d.Accept(l)
	if c != nil {
		c.Close()
	} else if !errors.Is(err, net.ErrClosed) {
		d.t.Errorf("accept: %v", err)
	}
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		d.t.Errorf("the caller reads: %v", err)
	}
	return c != nil
}

// callers is how many callers are let in until one is not.
func (d *dealer) callers() (n int) {
	d.t.Helper()
	for d.caller() {
		n++
	}
	return n
}

// endpoints connects endpoints of so many workers until one cannot be connected, and returns those that are.
func (d *dealer) endpoints(workers int) (all []*transport.Share) {
	for {
		s := d.Share(workers)
		for range workers {
			if err := s.Take(); err != nil {
				s.Close()
				return all
			}
		}
		all = append(all, s)
	}
}

func (d *dealer) without() float64 {
	d.t.Helper()
	return gather(d.t, d.reg, "lbproxy_endpoints_without_descriptor")
}

func gather(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// Neither side can take what the other, or the rest of the process, needs.
func TestDescriptorsAreDealtOut(t *testing.T) {
	const limit, inUse = 1000, 20
	t.Run("endpoints first", func(t *testing.T) {
		d := newDealer(t, limit, inUse)
		backends, callers := len(d.endpoints(1)), d.callers()
		if backends < limit/2 || callers < limit/4 || backends+callers > limit-inUse-100 {
			t.Errorf("of %d, %d are for endpoints and %d for callers", limit, backends, callers)
		}
	})
	t.Run("callers first", func(t *testing.T) {
		d := newDealer(t, limit, inUse)
		callers, backends := d.callers(), len(d.endpoints(1))
		if callers < limit*3/4 || backends < 50 || backends+callers > limit-inUse-100 {
			t.Errorf("of %d, %d are for callers and %d for endpoints", limit, callers, backends)
		}
	})
	t.Run("callers first, of endpoints that are down", func(t *testing.T) {
		d := newDealer(t, limit, inUse)
		for range 100 {
			d.Share(2)
		}
		d.callers()
		if backends := len(d.endpoints(2)); backends < 200 {
			t.Errorf("%d endpoints find a descriptor when 100 come back and as many come new", backends)
		}
	})
	t.Run("hardly any", func(t *testing.T) {
		d := newDealer(t, 40, inUse)
		if backends, callers := len(d.endpoints(1)), d.callers(); backends < 1 || callers < 1 {
			t.Errorf("of 40, %d are for endpoints and %d for callers", backends, callers)
		}
	})
}

// What is given back can be had again, by either side.
func TestDescriptorsComeBack(t *testing.T) {
	d := newDealer(t, 1000, 20)
	for range 2 {
		callers := d.callers()
		for range callers {
			d.CallerGone()
		}
		all := d.endpoints(3)
		for _, s := range all {
			for range 3 {
				s.Return()
			}
			s.Close()
		}
		if callers < 700 || len(all) < 150 {
			t.Errorf("%d callers, %d endpoints", callers, len(all))
		}
	}
}

// An endpoint gets a descriptor for each worker or none: with too few of them it would not be ready.
func TestAnEndpointIsConnectedWhole(t *testing.T) {
	d := newDealer(t, 300, 0)
	workers := 7
	connected := d.endpoints(workers)
	late := d.Share(workers)
	err := late.Take()
	if err == nil || !strings.Contains(err.Error(), "RLIMIT_NOFILE is 300") || !strings.Contains(err.Error(), "raise it") {
		t.Errorf("error %v: want the limit, and what helps", err)
	}
	if again := late.Take(); again == nil || again.Error() != err.Error() {
		t.Errorf("the second error is %v, want the first again: it is logged when it changes", again)
	}
	if got := d.without(); got != 1 {
		t.Errorf("%v endpoints without, want 1", got)
	}
	first := connected[0]
	for range workers - 1 {
		first.Return()
	}
	if err := late.Take(); err == nil {
		t.Error("there is a descriptor for an endpoint while another may want it back")
	}
	first.Return()
	for range workers {
		if err := late.Take(); err != nil {
			t.Fatal(err)
		}
	}
	if got := d.without(); got != 0 {
		t.Errorf("%v endpoints without, want none", got)
	}
	if err := first.Take(); err == nil {
		t.Error("there is a descriptor for both")
	}
	first.Close()
	if err := first.Take(); err == nil || d.without() != 0 {
		t.Errorf("take: %v; %v endpoints without, want none when it is gone", err, d.without())
	}
}

// Idle callers make room for some others, and for endpoints.
func TestIdleCallersMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDealer(t, 1000, 20)
		var idle, asked atomic.Int64
		d.OnCrowd(func(n int) int {
			n = min(n, int(idle.Load()))
			for range n {
				d.CallerGone()
			}
			asked.Add(int64(n))
			idle.Add(int64(-n))
			return n
		})
		pass := func() {
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		most := d.callers()
		pass()
		if n := asked.Load(); n != 0 {
			t.Errorf("%d callers were asked to leave, and none is idle", n)
		}
		idle.Store(int64(most))
		pass()
		room := int(asked.Load())
		if room != most/8 {
			t.Errorf("%d of %d callers were asked to leave, want room for an eighth", room, most)
		}
		for range 100 {
			d.Share(3) // what callers leave free for them grows
		}
		for range room {
			d.caller()
		}
		pass()
		endpoints := len(d.endpoints(1))
		synctest.Wait()
		more := int(asked.Load()) - room
		if more <= 0 || endpoints < 400 {
			t.Errorf("%d more callers were asked to leave, and there are descriptors for %d endpoints", more, endpoints)
		}
		if counted := gather(t, d.reg, "lbproxy_descriptor_shortages_total"); counted < float64(room+more) {
			t.Errorf("%v shortages, and %d callers were asked to leave", counted, room+more)
		}
	})
}

// Accepting goes on when there is nothing left for it for a while, is logged once a minute and counted.
func TestAcceptingGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDealer(t, 1000, 20)
		l := make(knocks, 100)
		failures := 0
		for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
			for range 5 {
				l <- os.NewSyscallError("accept4", errno)
				failures++
			}
		}
		ours, theirs := net.Pipe()
		defer ours.Close()
		l <- theirs
		l <- os.NewSyscallError("accept4", syscall.EBADF)
		began := time.Now()
		c, err := d.Accept(l)
		if c != theirs || err != nil {
			t.Fatalf("accept: %v, %v", c, err)
		}
		if took := time.Since(began); took < time.Second || took > time.Minute {
			t.Errorf("%d failures took %v, want pauses that grow to a fraction of a second", failures, took)
		}
		if got := d.logs.Len(); got != 1 {
			t.Errorf("%d lines are logged in %v, want one a minute", got, time.Since(began))
		}
		if got := gather(t, d.reg, "lbproxy_descriptor_shortages_total"); got != float64(failures) {
			t.Errorf("%v failures are counted, want %d", got, failures)
		}
		if _, err := d.Accept(l); !errors.Is(err, syscall.EBADF) {
			t.Errorf("accept: %v, want what will not get better", err)
		}
	})
}
