package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery/registrar"
)

const (
	acceptPoll    = 50 * time.Millisecond
	acceptTimeout = time.Second
	// killAfter is for a command that never listened and does not end on SIGTERM.
	killAfter = 10 * time.Second
)

// A supervisor runs a command and keeps it registered while it accepts connections.
type supervisor struct {
	// Immutable:
	log          *zap.Logger
	registrar    *registrar.Registrar
	addr         string
	startTimeout time.Duration
	drainWait    time.Duration

	// Owned by run:
	process *process
	signals chan os.Signal
	stop    os.Signal // the last SIGINT or SIGTERM
}

// An event is what ended a supervisor's wait.
type event int

const (
	happened event = iota // the awaited event occurred
	timeout               // the context ended first
	exited                // the command ended first
	stopping              // SIGINT or SIGTERM came first
)

// run runs the command until it ends. The error is an *exitError with the exit code.
func (s *supervisor) run(ctx context.Context, p *process) error {
	s.process, s.stop = p, syscall.SIGTERM
	s.signals = make(chan os.Signal, 16)
	signal.Notify(s.signals, heeded(syscall.SIGINT,
		syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)...)
	defer signal.Stop(s.signals)

	if accepts(ctx, s.addr) {
		s.log.Warn("something accepts connections already, before the command is started; is it an earlier one?",
			zap.String("addr", s.addr))
	}
	if err := p.start(); err != nil {
		return err
	}
	s.log.Info("command started", zap.Strings("command", p.cmd.Args), zap.Int("pid", p.cmd.Process.Pid))
	switch s.awaitAccepting(ctx) {
	case exited:
		return &exitError{code: max(p.exitCode(), exitFailure), err: fmt.Errorf(
			"the command ended before %s accepted connections: %v", s.addr, p.cmd.ProcessState)}
	case timeout:
		s.kill()
		return &exitError{code: exitFailure, err: fmt.Errorf("%s accepts no connections %v after the start of the command; "+
			"check that it listens there, or raise --start-timeout", s.addr, s.startTimeout)}
	case happened:
		s.registrar.Start()
		if s.await(ctx, nil) != exited {
			s.log.Info("deregistering, then stopping the command", zap.Stringer("signal", s.stop), zap.Duration("wait", s.drainWait))
		}
		s.deregister(ctx)
	case stopping: // nothing is registered yet
	}
	s.stopCommand()
	code := p.exitCode()
	s.log.Info("command exited", zap.Int("code", code))
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}

// heeded is SIGTERM and those of signals that this process's parent did not set to be ignored, as nohup does.
func heeded(signals ...os.Signal) []os.Signal {
	return append(slices.DeleteFunc(signals, signal.Ignored), syscall.SIGTERM)
}

// await waits for an event, and forwards to the command the signals that do not mean stop.
func (s *supervisor) await(ctx context.Context, happening <-chan struct{}) event {
	for {
		select {
		case <-happening:
			return happened
		case <-ctx.Done():
			return timeout
		case <-s.process.exited:
			return exited
		case sig := <-s.signals:
			if sig == syscall.SIGINT || sig == syscall.SIGTERM {
				s.stop = sig
				return stopping
			}
			s.process.signal(sig)
		}
	}
}

// awaitAccepting waits until the address accepts connections.
func (s *supervisor) awaitAccepting(parent context.Context) event {
	ctx, cancel := context.WithTimeout(parent, s.startTimeout)
	var polling sync.WaitGroup
	defer polling.Wait()
	defer cancel()
	accepting := make(chan struct{})
	polling.Go(func() { // ends with ctx at the latest
		if acceptsWithin(ctx, s.addr, s.startTimeout) {
			close(accepting)
		}
	})
	e := s.await(ctx, accepting)
	if e == timeout && parent.Err() != nil {
		return stopping
	}
	return e
}

// acceptsWithin waits until addr accepts connections, and reports whether it did in time.
func acceptsWithin(ctx context.Context, addr string, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for !accepts(ctx, addr) {
		select {
		case <-time.After(acceptPoll):
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func accepts(ctx context.Context, addr string) bool {
	c, err := (&net.Dialer{Timeout: acceptTimeout}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// deregister ends the registration and waits until no proxy should still send calls. Another signal to stop cuts it
// short, and so does the command's end.
func (s *supervisor) deregister(ctx context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var err error
	done := make(chan struct{})
	go func() { // ends within the etcd client's request timeout
		defer close(done)
		err = s.registrar.Stop(ctx)
	}()
	hurry := s.await(ctx, done) == stopping
	if hurry {
		cancel()
	}
	<-done
	if err != nil {
		s.log.Warn("not deregistered", zap.Error(err))
	}
	if !hurry {
		drained, cancel := context.WithTimeout(ctx, s.drainWait)
		defer cancel()
		s.await(drained, nil)
	}
}

// stopCommand forwards the signal to stop, and any others that arrive, until the command has ended.
func (s *supervisor) stopCommand() {
	for e := stopping; e == stopping; e = s.await(context.Background(), nil) {
		s.process.signal(s.stop)
	}
}

// kill ends the command: SIGTERM, then SIGKILL after killAfter.
func (s *supervisor) kill() {
	ctx, cancel := context.WithTimeout(context.Background(), killAfter)
	defer cancel()
	s.process.signal(syscall.SIGTERM)
	if s.await(ctx, nil) != exited {
		s.process.signal(syscall.SIGKILL)
		<-s.process.exited
	}
}
