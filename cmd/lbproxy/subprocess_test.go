package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

const testServerArg = "test-server"

// testServer is the server that the tests run: it listens, reports on its output what happens to it, and obeys its
// input. It never returns.
func testServer(args []string) {
	flags := flag.NewFlagSet(testServerArg, flag.ExitOnError)
	addr := flags.String("addr", "", "address to listen at")
	wait := flags.Bool("wait", false, "listen only when told to")
	code := flags.Int("code", 0, "exit code at SIGINT and SIGTERM")
	_ = flags.Parse(args) // exits by itself
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1)
	fmt.Println("started in group", syscall.Getpgrp())

	orders := make(chan string)
	go func() { // ends with the process
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			orders <- in.Text()
		}
	}()
	if *wait {
		<-orders
	}
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		fmt.Println(err)
		os.Exit(99)
	}
	defer l.Close() // keeps l alive: a listener that is garbage-collected stops listening
	fmt.Println("listening")
	for {
		select {
		case s := <-signals:
			fmt.Println("signal:", s)
			if s == syscall.SIGINT || s == syscall.SIGTERM {
				os.Exit(*code)
			}
		case order := <-orders:
			switch order {
			case "exit":
				os.Exit(7)
			case "die":
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		}
	}
}

// A subprocess is an lbproxy, with its and its command's output.
type subprocess struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  chan string // of standard output; closed at its end
	stderr *syncBuffer
	exited chan struct{} // closed when lbproxy has ended
}

type syncBuffer struct {
	mu sync.Mutex // protects:
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start runs lbproxy with args until the end of the test.
func start(t *testing.T, args ...string) *subprocess {
	t.Helper()
	return startBy(t, nil, args...)
}

// startBy is start through another command, which then executes lbproxy.
func startBy(t *testing.T, by []string, args ...string) *subprocess {
	t.Helper()
	command := slices.Concat(by, []string{os.Args[0]}, args)
	p := &subprocess{
		t: t, cmd: exec.Command(command[0], command[1:]...), lines: make(chan string, 100),
		stderr: &syncBuffer{}, exited: make(chan struct{}),
	}
	// The race detector sleeps for 1 s before a process ends; one that finds a race still makes it fail.
	p.cmd.Env = append(os.Environ(), asLbproxy+"=1", "GORACE=atexit_sleep_ms=0")
	p.cmd.Stderr = p.stderr
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout = w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var wg sync.WaitGroup
	wg.Go(func() { // ends when lbproxy and its command have ended
		defer close(p.lines)
		for out := bufio.NewScanner(stdout); out.Scan(); {
			p.lines <- out.Text()
		}
		stdout.Close()
	})
	wg.Go(func() { // ends when lbproxy ends
		defer close(p.exited)
		_ = p.cmd.Wait() // ProcessState has the same and more
	})
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // most have ended long ago
		wg.Wait()
		if t.Failed() {
			t.Logf("lbproxy said:\n%s", p.stderr)
		}
	})
	return p
}

// self is the command line of a test server.
func self(args ...string) []string { return append([]string{os.Args[0], testServerArg}, args...) }

func (p *subprocess) tell(order string) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.stdin, order); err != nil {
		p.t.Fatal(err)
	}
}

func (p *subprocess) send(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// awaitLine waits for a line of output that begins with prefix, and returns the rest of it.
func (p *subprocess) awaitLine(prefix string) string {
	p.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("output ended without %q", prefix)
			}
			if rest, ok := strings.CutPrefix(line, prefix); ok {
				return rest
			}
		case <-timeout:
			p.t.Fatalf("no line %q", prefix)
		}
	}
}

// awaitLog waits for text in what lbproxy says itself.
func (p *subprocess) awaitLog(text string) {
	p.t.Helper()
	etcdtest.Eventually(p.t, "lbproxy says "+text, func() bool { return strings.Contains(p.stderr.String(), text) })
}

// awaitExit waits until lbproxy has ended, and checks its exit code.
func (p *subprocess) awaitExit(want int) {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(30 * time.Second):
		p.t.Fatal("lbproxy does not end")
	}
	if got := p.cmd.ProcessState.ExitCode(); got != want {
		p.t.Errorf("exit code %d, want %d", got, want)
	}
}
