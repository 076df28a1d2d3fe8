//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	readyWithin = 10 * time.Second // the first call on every connection
	endWithin   = 5 * time.Second  // all that runs when the measurement is over
)

// job is what the process "bench load" reads from its standard input. It writes a [measurement].
type job struct {
	Scenario scenario      `json:"scenario"`
	Target   string        `json:"target"`   // host:port
	Proxy    int           `json:"proxy"`    // pid of the proxy; 0 for none
	Backends []int         `json:"backends"` // their pids
	Warmup   time.Duration `json:"warmup"`
	Duration time.Duration `json:"duration"`
}

func load(ctx context.Context, in io.Reader, out io.Writer) error {
	debug.SetGCPercent(gcPercent)
	var j job
	if err := json.NewDecoder(in).Decode(&j); err != nil {
		return fmt.Errorf("job: %w", err)
	}
	m, err := j.run(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(m)
}

func (j *job) run(ctx context.Context) (measurement, error) {
	if j.Scenario.Kind == idle {
		return j.rest(ctx)
	}
	conns, err := j.dial(ctx, j.Scenario.Conns)
	defer closeAll(conns)
	if err != nil {
		return measurement{}, err
	}
	return j.drive(ctx, conns)
}

// phase is the state of a measurement.
type phase struct {
	measuring atomic.Bool // what ends now counts
	over      atomic.Bool // nothing new begins
}

// drive makes the load, and measures while it runs.
func (j *job) drive(ctx context.Context, conns []*grpc.ClientConn) (measurement, error) {
	calls, cancel := context.WithCancel(ctx)
	defer cancel()
	var p phase
	var running sync.WaitGroup
	tallies := make([]*tally, max(j.Scenario.Workers, 1))
	for i := range tallies {
		tallies[i] = newTally(&p)
		c := &caller{conn: conns[i%len(conns)], payload: payload(j.Scenario.Payload), tally: tallies[i], phase: &p}
		running.Go(func() { c.call(calls, j.Scenario) }) // ends when p is over, or with calls
	}

	pause(ctx, j.Warmup)
	m, err := j.observe(ctx, &p)
	p.over.Store(true)
	tooLong := time.AfterFunc(endWithin, func() {
		tallies[0].failed(fmt.Errorf("calls did not end within %v", endWithin))
		cancel()
	})
	running.Wait()
	tooLong.Stop()
	m.add(tallies)
	if err != nil && m.Error != "" {
		err = fmt.Errorf("%w; a call had: %s", err, m.Error)
	}
	return m, errors.Join(err, context.Cause(ctx))
}

// observe opens the period in which operations count, and returns what processes used in it.
func (j *job) observe(ctx context.Context, p *phase) (measurement, error) {
	processes, err := processTree(j.Proxy)
	if err != nil {
		return measurement{}, err
	}
	before, err := j.account(processes)
	if err != nil {
		return measurement{}, err
	}
	p.measuring.Store(true)
	pause(ctx, j.Duration)
	p.measuring.Store(false)
	after, err := j.account(processes)
	if err != nil {
		return measurement{}, err
	}
	m := after.since(before)
	m.PeakRSS, err = peakRSS(processes)
	return m, err
}

// rest measures what an idle connection takes in the proxy.
func (j *job) rest(ctx context.Context) (measurement, error) {
	first, err := j.dial(ctx, 1) // so that what the proxy needs anyway is there before
	defer closeAll(first)
	if err != nil {
		return measurement{}, err
	}
	pause(ctx, j.Warmup)
	processes, err := processTree(j.Proxy)
	if err != nil {
		return measurement{}, err
	}
	before, err := currentRSS(processes)
	if err != nil {
		return measurement{}, err
	}
	resting, err := j.dial(ctx, j.Scenario.Conns)
	defer closeAll(resting)
	if err != nil {
		return measurement{}, err
	}
	pause(ctx, j.Duration)
	after, err := currentRSS(processes)
	if err != nil {
		return measurement{}, err
	}
	n := len(resting)
	return measurement{Ops: int64(n), Seconds: j.Duration.Seconds(), IdleRSS: float64(after-before) / float64(n)}, context.Cause(ctx)
}

// dial opens n connections and makes a call on each. Those that it returns with an error must be closed too.
func (j *job) dial(ctx context.Context, n int) ([]*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})),
		grpc.WithIdleTimeout(0), // idle connections stay connections
		grpc.WithNoProxy(),
	}
	var conns []*grpc.ClientConn
	for range n {
		conn, err := grpc.NewClient("passthrough:///"+j.Target, options...)
		if err != nil {
			return conns, err
		}
		conns = append(conns, conn)
		ready, cancel := context.WithTimeout(ctx, readyWithin)
		message, answer := payload(j.Scenario.Payload), []byte(nil)
		err = conn.Invoke(ready, echoMethod, &message, &answer, grpc.WaitForReady(true))
		cancel()
		if err != nil {
			return conns, fmt.Errorf("first call on connection %d of %d: %w", len(conns), n, err)
		}
	}
	return conns, nil
}

func closeAll(conns []*grpc.ClientConn) {
	for _, conn := range conns {
		conn.Close()
	}
}

// payload is a message of n bytes.
func payload(n int) []byte {
	message := make([]byte, n)
	for i := range message {
		message[i] = byte(i)
	}
	return message
}

// pause returns after d, or when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// accounts are the system's accounts at one moment.
type accounts struct {
	at       time.Time
	machine  time.Duration // CPU that all processes have used, on all cores
	cores    int
	proxy    time.Duration
	caller   time.Duration
	backends []time.Duration
}

func (j *job) account(proxy []int) (accounts, error) {
	a := accounts{at: time.Now()}
	var err error
	if a.machine, a.cores, err = machineCPU(); err != nil {
		return a, err
	}
	for _, pid := range proxy {
		used, err := processCPU(pid)
		if err != nil {
			return a, fmt.Errorf("the proxy has ended: %w", err)
		}
		a.proxy += used
	}
	for _, pid := range j.Backends {
		used, err := processCPU(pid)
		if err != nil {
			return a, fmt.Errorf("a backend has ended: %w", err)
		}
		a.backends = append(a.backends, used)
	}
	a.caller, err = processCPU(os.Getpid())
	return a, err
}

// since is what was used between b and a.
func (a accounts) since(b accounts) measurement {
	m := measurement{
		Seconds:   a.at.Sub(b.at).Seconds(),
		ProxyCPU:  (a.proxy - b.proxy).Seconds(),
		CallerCPU: (a.caller - b.caller).Seconds(),
	}
	other := (a.machine - b.machine).Seconds() - m.ProxyCPU - m.CallerCPU
	for i := range a.backends {
		used := (a.backends[i] - b.backends[i]).Seconds()
		m.BackendCPU = append(m.BackendCPU, used)
		other -= used
	}
	m.OtherCPU = 100 * max(other, 0) / (m.Seconds * float64(a.cores))
	return m
}
