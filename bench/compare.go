//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"
)

const (
	backendCount = 3
	attempts     = 3                      // of a measurement that others disturbed
	glance       = 200 * time.Millisecond // long enough to see how busy the machine is
)

// bench is a running comparison.
type bench struct {
	*options
	bin      *binaries
	backends []*backend
	patience time.Duration // what is left of the time to wait for quiet
}

// compare measures every scenario through every proxy, round after round, so that changes on the machine over time
// affect all of them.
func (o *options) compare(ctx context.Context) (*report, error) {
	if err := raiseFileLimit(); err != nil {
		return nil, err
	}
	bin, err := o.findBinaries(ctx)
	if err != nil {
		return nil, err
	}
	defer bin.close()
	r, err := newReport(o, bin.versions)
	if err != nil {
		return nil, err
	}
	b := &bench{options: o, bin: bin, patience: o.quietWait}
	defer b.stopBackends()
	for range backendCount {
		backend, err := startBackend()
		if err != nil {
			return nil, err
		}
		b.backends = append(b.backends, backend)
	}
	for round := range o.rounds {
		for _, s := range o.scenarios {
			for _, p := range o.proxies {
				if s.Kind == idle && p.program == "" {
					continue // there is no proxy whose memory to measure
				}
				m, err := b.measureQuietly(ctx, p, s)
				if err != nil {
					return nil, err
				}
				m.Round = round + 1
				r.Measurements = append(r.Measurements, m)
				fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", m.Round, o.rounds, m.line(s))
			}
		}
	}
	return r, nil
}

func (b *bench) stopBackends() {
	for _, each := range b.backends {
		each.stop()
	}
}

// measureQuietly measures until other processes have not disturbed it, as long as its patience lasts, and returns the
// least disturbed measurement. One with errors is not repeated: they are a result.
func (b *bench) measureQuietly(ctx context.Context, p proxy, s scenario) (measurement, error) {
	var best measurement
	for attempt := range attempts {
		if err := b.waitForQuiet(ctx); err != nil {
			return best, err
		}
		m := b.measure(ctx, p, s)
		if err := ctx.Err(); err != nil {
			return best, errors.New("interrupted")
		}
		if attempt == 0 || !m.valid() || m.OtherCPU < best.OtherCPU {
			best = m
		}
		if !m.valid() || b.quiet == 0 || m.OtherCPU <= b.quiet || b.patience <= 0 {
			break
		}
		b.patience -= b.warmup + b.duration
	}
	return best, nil
}

// waitForQuiet waits until other processes use little enough of the machine, as long as its patience lasts.
func (b *bench) waitForQuiet(ctx context.Context) error {
	for b.quiet > 0 && b.patience > 0 && ctx.Err() == nil {
		before, cores, err := machineCPU()
		if err != nil {
			return err
		}
		start := time.Now()
		pause(ctx, glance)
		after, _, err := machineCPU()
		if err != nil {
			return err
		}
		if 100*(after-before).Seconds() <= b.quiet*time.Since(start).Seconds()*float64(cores) {
			break
		}
		b.patience -= glance
	}
	return nil
}

// measure measures s once, through a p that is started for it. The measurement records whatever goes wrong.
func (b *bench) measure(ctx context.Context, p proxy, s scenario) measurement {
	j := job{Scenario: s, Warmup: b.warmup, Duration: b.duration}
	var addresses []netip.AddrPort
	for _, each := range b.backends {
		j.Backends = append(j.Backends, each.pid())
		addresses = append(addresses, each.address)
	}
	m, err := func() (measurement, error) {
		j.Target = addresses[0].String()
		if p.program != "" {
			running, err := startProxy(ctx, p, b.bin, addresses)
			if err != nil {
				return measurement{}, err
			}
			defer running.stop()
			j.Target, j.Proxy = running.address.String(), running.pid()
		}
		return runLoad(ctx, j)
	}()
	m.Scenario, m.Proxy, m.At = s.Name, p.Name, time.Now()
	if err != nil {
		m.Errors++
		m.Error = err.Error()
	}
	return m
}

// raiseFileLimit lets this process and its children have as many files as the system grants: an idle connection takes
// one in the callers and one in the proxy.
func raiseFileLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	limit.Cur = limit.Max // Go has done it for itself, but gives the old one to what it starts
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	return nil
}
