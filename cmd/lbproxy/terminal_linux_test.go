package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

// startOnTerminal is start with lbproxy's output on a terminal. What appears there is in stderr.
func startOnTerminal(t *testing.T, args ...string) *subprocess {
	t.Helper()
	master, slave := openTerminal(t)
	p := &subprocess{t: t, cmd: exec.Command(os.Args[0], args...), stderr: &syncBuffer{}, exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), asLbproxy+"=1", "GORACE=atexit_sleep_ms=0")
	p.cmd.Stdout, p.cmd.Stderr = slave, slave
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	shown := make(chan struct{})
	go func() { // ends when lbproxy, the terminal's last user, ends
		defer close(shown)
		_, _ = io.Copy(p.stderr, master)
	}()
	go func() { // ends when lbproxy ends
		defer close(p.exited)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // most have ended long ago
		<-p.exited
		<-shown
		master.Close()
	})
	return p
}

func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fail := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	fail(err)
	fd := int(master.Fd())
	fail(unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	fail(err)
	fail(unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 200}))
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	fail(err)
	return master, slave
}

func TestServicesWatchedOnATerminal(t *testing.T) {
	s := startServing(t, "services: {hello: {}}")
	p := startOnTerminal(t, "services", "hello", "--watch", "--admin", s.admin)
	again := "\x1b[3A\x1b[J" // up over a header, an instance and the registry's line
	etcdtest.Eventually(t, "the table is drawn in its own place", func() bool { return strings.Contains(p.stderr.String(), again+"ADDRESS") })
	p.send(syscall.SIGINT)
	p.awaitExit(0)
}

func TestServeLogsForWhoeverReads(t *testing.T) {
	instances := filepath.Join(t.TempDir(), "instances.yaml")
	write(t, instances, "services: {}\n")
	serve := func(flags ...string) []string {
		return append([]string{"serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--instances", instances}, flags...)
	}
	people, machines := "INFO   ready\r\n", `"msg":"ready"`
	for _, test := range []struct {
		name string
		p    *subprocess
		want string
	}{
		{"a person", startOnTerminal(t, serve()...), people},
		{"a person who wants JSON", startOnTerminal(t, serve("--log-format", "json")...), machines},
		{"a program", start(t, serve()...), machines},
		{"a file for people", start(t, serve("--log-format", "console")...), strings.ReplaceAll(people, "\r", "")},
	} {
		test.p.awaitLog(test.want)
		test.p.send(syscall.SIGTERM)
		test.p.awaitExit(0)
	}
}
