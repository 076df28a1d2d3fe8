package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
)

// process is the real binary, serving.
type process struct {
	*exec.Cmd
	t      testing.TB
	calls  string // where it takes calls
	admin  string
	exited chan struct{} // closed when it has ended
}

// buildBinary returns the path of the production binary, which is built once.
var buildBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(scratch, "lbproxy")
	out, err := exec.Command("go", "build", "-o", path, "../../cmd/lbproxy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

// startBinary runs the binary in this world until the test ends, or until it is told to stop.
func (w *world) startBinary(args ...string) *process {
	w.t.Helper()
	return w.startBinaryBy(nil, args...)
}

// startBinaryBy is startBinary by way of another command, which is to become the binary.
func (w *world) startBinaryBy(by []string, args ...string) *process {
	w.t.Helper()
	path, err := buildBinary()
	if err != nil {
		w.t.Fatal(err)
	}
	command := slices.Concat(by, []string{
		path, "serve", "--engine", w.engine.name, "--etcd", w.etcd, "--root", w.root, "--listen", newAddr(w.t), "--admin", newAddr(w.t),
	}, args)
	p := &process{t: w.t, exited: make(chan struct{}), Cmd: exec.Command(command[0], command[1:]...)}
	logs, err := p.StderrPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		w.t.Fatal(err)
	}
	listening := make(chan struct{})
	go func() { // ends with the process
		defer close(p.exited)
		defer p.Wait()
		p.read(bufio.NewScanner(logs), listening)
	}()
	w.t.Cleanup(func() {
		p.Process.Kill()
		<-p.exited
	})
	select {
	case <-listening:
	case <-p.exited:
		w.t.Fatalf("the binary does not start: %v", p.ProcessState)
	}
	return p
}

// read takes the addresses out of the logs, and reads on so that the process does not block.
func (p *process) read(logs *bufio.Scanner, listening chan<- struct{}) {
	for logs.Scan() {
		var line struct{ Level, Msg, Address, Error string }
		if err := json.Unmarshal(logs.Bytes(), &line); err != nil {
			p.t.Errorf("log line %q: %v", logs.Bytes(), err)
			continue
		}
		switch line.Msg {
		case "listening for calls":
			p.calls = line.Address
		case "listening for admin":
			p.admin = line.Address
			close(listening)
		}
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.Process.Signal(s); err != nil {
		p.t.Error(err)
	}
}

func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// awaitExit waits for the end and returns the exit code; -1 if a signal ended the process.
func (p *process) awaitExit() int {
	p.t.Helper()
	select {
	case <-p.exited:
		return p.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatal("the process does not end")
		return 0
	}
}

// The binary serves as it is started, lets running calls end at SIGTERM, and exits with 0.
func TestBinary(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		g := newGate()
		in := w.startInstance("hello", "", 1, onHello(g.hold))
		p := w.startBinary()
		result := make(chan error, 1)
		go func() { // ends when the gate opens
			addr, err := sayHello(within(t), dial(t, "passthrough:///"+p.calls, grpc.WithAuthority("hello")))
			if err == nil && addr != in.addr {
				err = errors.New("answered by " + addr)
			}
			result <- err
		}()
		<-g.arrived
		p.signal(syscall.SIGTERM)
		await(t, "refusal of connections", func() bool { return refuses(p.calls) })
		if code, body := get(t, "http://"+p.admin+"/readyz"); code != 503 {
			t.Errorf("/readyz = %d %s", code, body)
		}
		close(g.open)
		if err := <-result; err != nil {
			t.Errorf("the running call ends by %v", err)
		}
		if code := p.awaitExit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

// A second SIGTERM ends it at once, whatever still runs.
func TestBinaryEndsAtTheSecondSignal(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		g := newGate()
		w.startInstance("hello", "", 1, onHello(g.hold))
		p := w.startBinary("--drain-timeout", "10m")
		result := make(chan error, 1)
		go func() { // ends with the process
			_, err := sayHello(within(t), dial(t, "passthrough:///"+p.calls, grpc.WithAuthority("hello")))
			result <- err
		}()
		<-g.arrived
		p.signal(syscall.SIGTERM)
		await(t, "refusal of connections", func() bool { return refuses(p.calls) })
		// A signal that comes in the very moment of the first is taken for the same one.
		await(t, "end of the process", func() bool {
			p.Process.Signal(syscall.SIGTERM)
			return p.hasExited()
		})
		if code := p.awaitExit(); code == 0 {
			t.Error("exit code 0, though a call was cut off")
		}
		if err := <-result; err == nil {
			t.Error("the call that was cut off succeeds")
		}
	})
}
