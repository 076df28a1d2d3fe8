//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	listensWithin = 10 * time.Second
	stopsWithin   = 3 * time.Second
	loadWithin    = 30 * time.Second // more than its warm-up and measurement take
)

// process is a program that runs beside this one until stop.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended; cmd.ProcessState then says how
}

// apart are the attributes of a process that leads a group of its own. Ctrl-C at the terminal does not reach it; stop
// ends it with everything that it has started. If this process is killed, the kernel sends it SIGTERM.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// start starts cmd apart from this process.
func start(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = apart()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() { // ends with the process, see stop
		cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop asks the process to end, and kills it if that takes too long.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stopsWithin):
	}
	syscall.Kill(-p.pid(), syscall.SIGKILL) // its group: nobody but it and what it has left behind
	<-p.ended
}

// untilListening waits until something accepts connections at address.
func (p *process) untilListening(ctx context.Context, address netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, listensWithin)
	defer cancel()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "tcp", address.String())
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.ended:
			return fmt.Errorf("it ended at its start: %v", p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("it does not listen at %s: %w", address, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// backend is a process of "bench echo".
type backend struct {
	*process
	address netip.AddrPort
}

func startBackend() (*backend, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "echo")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p, err := start(cmd)
	if err != nil {
		return nil, err
	}
	var said string
	fmt.Fscanln(stdout, &said)
	address, err := netip.ParseAddrPort(said)
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("a backend did not say its address: %w", err)
	}
	return &backend{p, address}, nil
}

// runningProxy is a proxy with a directory for its files.
type runningProxy struct {
	*process
	dir     string
	address netip.AddrPort
}

// startProxy starts p in front of backends and waits until it listens.
func startProxy(ctx context.Context, p proxy, bin *binaries, backends []netip.AddrPort) (*runningProxy, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "lbproxy-bench-"+p.Name+"-")
	if err != nil {
		return nil, err
	}
	r := &runningProxy{dir: dir, address: address}
	if err := r.launch(ctx, p, bin, backends); err != nil {
		err = fmt.Errorf("%s: %w%s", p.Name, err, r.lastWords())
		r.stop()
		return nil, err
	}
	return r, nil
}

func (r *runningProxy) launch(ctx context.Context, p proxy, bin *binaries, backends []netip.AddrPort) error {
	if err := p.configure(r.address, backends, r.dir); err != nil {
		return err
	}
	output, err := os.Create(filepath.Join(r.dir, "output.log"))
	if err != nil {
		return err
	}
	defer output.Close()
	cmd := bin.command(p)
	cmd.Dir, cmd.Stdout, cmd.Stderr = r.dir, output, output
	if r.process, err = start(cmd); err != nil {
		return err
	}
	return r.untilListening(ctx, r.address)
}

func (r *runningProxy) stop() {
	if r.process != nil {
		r.process.stop()
	}
	os.RemoveAll(r.dir)
}

// lastWords is the end of the proxy's output, for an error.
func (r *runningProxy) lastWords() string {
	const lines = 3
	var said []string
	for _, name := range []string{"output.log", "error.log"} {
		text, err := os.ReadFile(filepath.Join(r.dir, name))
		if text = bytes.TrimSpace(text); err != nil || len(text) == 0 {
			continue
		}
		all := strings.Split(string(text), "\n")
		said = append(said, all[max(0, len(all)-lines):]...)
	}
	if len(said) == 0 {
		return ""
	}
	return "; it said: " + strings.Join(said, " | ")
}

// freeAddress is an address that nobody listens at now. Somebody else may take it before it is used; whoever uses it
// then gets an error.
func freeAddress() (netip.AddrPort, error) {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return netip.AddrPort{}, err
	}
	return listener.Addr().(*net.TCPAddr).AddrPort(), listener.Close()
}

// runLoad runs j in a process of "bench load".
func runLoad(ctx context.Context, j job) (measurement, error) {
	var m measurement
	self, err := os.Executable()
	if err != nil {
		return m, err
	}
	input, err := json.Marshal(j)
	if err != nil {
		return m, err
	}
	ctx, cancel := context.WithTimeout(ctx, j.Warmup+j.Duration+loadWithin)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, self, "load")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	cmd.SysProcAttr = apart()
	if err := cmd.Run(); err != nil {
		return m, fmt.Errorf("callers: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return m, json.Unmarshal(stdout.Bytes(), &m)
}
