package main

import (
	"errors"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

func TestCommandLivesRegistered(t *testing.T) {
	h := newHost(t)
	p := start(t, h.register(append([]string{"--drain-wait", "1h", "--"}, self("--addr", h.addr, "--wait", "--code", "3")...)...)...)
	group := p.awaitLine("started in group ")
	if own, err := syscall.Getpgid(p.cmd.Process.Pid); err != nil || group == strconv.Itoa(own) {
		t.Errorf("the command is in group %s, as lbproxy (error %v)", group, err)
	}
	before, err := h.etcd.Put(t.Context(), "/marker", "")
	if err != nil {
		t.Fatal(err)
	}
	p.tell("listen")
	etcdtest.Eventually(t, "the instance is registered", h.registered)
	if got := h.entry().CreateRevision; got <= before.Header.Revision {
		t.Errorf("registered at revision %d, before the server was told to listen at %d", got, before.Header.Revision)
	}
	p.send(syscall.SIGHUP)
	p.awaitLine("signal: hangup")
	p.send(syscall.SIGUSR1)
	p.awaitLine("signal: user defined signal 1")

	p.send(syscall.SIGTERM)
	etcdtest.Eventually(t, "the instance is deregistered", h.unregistered)
	p.awaitLog("deregistered")
	if !h.accepts() {
		t.Error("the command ended at once, without the time that proxies need")
	}
	p.send(syscall.SIGUSR1) // ends no wait
	p.awaitLine("signal: user defined signal 1")
	if !h.accepts() {
		t.Error("the command ended at a signal that does not mean to stop")
	}
	p.send(syscall.SIGINT) // the second signal ends the wait
	p.awaitLine("signal: interrupt")
	p.awaitExit(3)
	if line, ok := <-p.lines; ok {
		t.Errorf("one line of output too many: %q", line)
	}
}

func TestIgnoredSignalsStayIgnored(t *testing.T) {
	h := newHost(t)
	server := append([]string{"--"}, self("--addr", h.addr)...)
	p := startBy(t, []string{"sh", "-c", `trap "" HUP; exec "$0" "$@"`}, h.register(server...)...)
	etcdtest.Eventually(t, "the instance is registered", h.registered)
	p.send(syscall.SIGHUP)
	p.send(syscall.SIGUSR1)
	p.awaitLine("listening")
	if line := <-p.lines; line != "signal: user defined signal 1" {
		t.Errorf("the command says %q first, want it to know only of SIGUSR1", line)
	}
}

func TestDrainWait(t *testing.T) {
	h := newHost(t)
	const wait = 300 * time.Millisecond
	p := start(t, h.register(append([]string{"--drain-wait", wait.String(), "--"}, self("--addr", h.addr)...)...)...)
	etcdtest.Eventually(t, "the instance is registered", h.registered)
	began := time.Now()
	p.send(syscall.SIGTERM)
	p.awaitLine("signal: terminated")
	if took := time.Since(began); took < wait {
		t.Errorf("the command got the signal after %v, want %v at least", took, wait)
	}
	if h.registered() {
		t.Error("the command got the signal while it was still registered")
	}
	p.awaitExit(0)
}

func TestCommandThatEnds(t *testing.T) {
	h := newHost(t)
	for _, test := range []struct {
		order string
		code  int
	}{
		{"exit", 7},
		{"die", 128 + 9},
	} {
		t.Run(test.order, func(t *testing.T) {
			p := start(t, h.register(append([]string{"--"}, self("--addr", h.addr)...)...)...)
			etcdtest.Eventually(t, "the instance is registered", h.registered)
			p.tell(test.order)
			p.awaitExit(test.code)
			if h.registered() {
				t.Error("still registered")
			}
		})
	}
}

func TestCommandThatNeverAccepts(t *testing.T) {
	h := newHost(t)
	for _, test := range []struct {
		name, command string
		code          int
		want          string
	}{
		{"fails", "exit 3", 3, "the command ended before " + h.addr + " accepted connections: exit status 3"},
		{"ends", "exit 0", 1, "the command ended before " + h.addr + " accepted connections: exit status 0"},
		{"is killed", "kill -9 $$", 128 + 9, "signal: killed"},
		{"hangs", "sleep 1000", 1, h.addr + " accepts no connections 200ms after the start of the command"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := start(t, h.register("--start-timeout", "200ms", "--", "sh", "-c", test.command)...)
			p.awaitExit(test.code)
			if got := p.stderr.String(); !strings.Contains(got, test.want) {
				t.Errorf("got\n%swant %q", got, test.want)
			}
			if h.registered() {
				t.Error("registered all the same")
			}
		})
	}
}

func TestStopBeforeTheCommandAccepts(t *testing.T) {
	h := newHost(t)
	p := start(t, h.register(append([]string{"--"}, self("--addr", h.addr, "--wait")...)...)...)
	p.awaitLine("started")
	p.awaitLog("command started")
	p.send(syscall.SIGTERM)
	p.tell("listen") // only now does it look at its signals
	p.awaitLine("signal: terminated")
	p.awaitExit(0)
	if h.registered() {
		t.Error("registered, though it was to stop")
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	h := newHost(t)
	running := func(pid string) bool {
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatalf("%q is no pid", pid)
		}
		return !errors.Is(syscall.Kill(n, 0), syscall.ESRCH)
	}
	t.Run("by a command that ends", func(t *testing.T) {
		p := start(t, h.register("--", "sh", "-c", "sleep 1000 & echo left $!; exit 5")...)
		pid := p.awaitLine("left ")
		p.awaitExit(5)
		etcdtest.Eventually(t, "what it left has ended", func() bool { return !running(pid) })
	})
	t.Run("by an lbproxy that is killed", func(t *testing.T) {
		if runtime.GOOS != "linux" {
			t.Skip("only Linux can do this")
		}
		p := start(t, h.register(append([]string{"--ttl", "2s", "--"}, self("--addr", h.addr)...)...)...)
		pid := p.awaitLine("started in group ")
		etcdtest.Eventually(t, "the instance is registered", h.registered)
		p.send(syscall.SIGKILL)
		etcdtest.Eventually(t, "the command has ended", func() bool { return !running(pid) })
		etcdtest.Eventually(t, "the registration has run out", h.unregistered)
	})
}

func TestCommandWithoutEtcd(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	network := etcdtest.Forward(t, h.endpoint)
	network.Cut()
	h.endpoint = network.Endpoint()
	p := start(t, h.register(append([]string{"--drain-wait", "0", "--"}, self("--addr", h.addr)...)...)...)
	p.awaitLog("not registered")
	if !h.accepts() {
		t.Error("the command does not run")
	}
	network.Resume()
	etcdtest.Eventually(t, "the instance is registered", h.registered)
	network.Stall()
	p.send(syscall.SIGTERM)
	p.send(syscall.SIGINT) // the second signal ends the wait for etcd, too
	p.awaitLine("signal: ")
	p.awaitExit(0)
	p.awaitLog("not deregistered")
}
