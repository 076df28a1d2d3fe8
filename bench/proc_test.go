//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func TestParseProcess(t *testing.T) {
	for _, c := range []struct {
		line        string
		pid, parent int
		ok          bool
	}{
		{"17 (nginx) S 4 17 17 0 -1", 17, 4, true},
		{"18 (a b) (c) R 17 17 17 0 -1", 18, 17, true},
		{"19 () S 1", 19, 1, true},
		{"19 (a) S", 0, 0, false},
		{"19 a S 1", 0, 0, false},
		{"", 0, 0, false},
	} {
		pid, parent, err := parseProcess([]byte(c.line))
		if (err == nil) != c.ok || c.ok && (pid != c.pid || parent != c.parent) {
			t.Errorf("%q: got %d, %d, %v, want %d, %d, ok %v", c.line, pid, parent, err, c.pid, c.parent, c.ok)
		}
	}
}

func TestParseMachine(t *testing.T) {
	const text = `cpu  100 2 30 4000 500 6 7 8 90 10
cpu0 50 1 15 2000 250 3 3 4 45 5
cpu1 50 1 15 2000 250 3 4 4 45 5
intr 12345 0 1
`
	used, cores, err := parseMachine(text)
	if want := 153 * tick; err != nil || used != want || cores != 2 {
		t.Errorf("got %v on %d cores, %v, want %v on 2: all but idle, iowait and guests", used, cores, err, want)
	}
	for _, bad := range []string{"", "intr 1\n", "cpu  1 x 3\ncpu0 1 2 3\n"} {
		if _, _, err := parseMachine(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestParseMemory(t *testing.T) {
	const text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"
	if got, err := parseMemory(text, "VmRSS:"); err != nil || got != 1<<20 {
		t.Errorf("got %d, %v, want %d", got, err, 1<<20)
	}
	if _, err := parseMemory("Name:\tkthreadd\n", "VmRSS:"); err == nil {
		t.Error("no error for a process without memory")
	}
}

// The clock that CPU is read from agrees with the kernel's other account, to a tick of each kind.
func TestProcessCPU(t *testing.T) {
	for i := 0; usage(t) < 50*time.Millisecond; i++ {
		_ = i * i
	}
	least := usage(t)
	got, err := processCPU(os.Getpid())
	most := usage(t)
	if err != nil || got < least-2*tick || got > most+2*tick {
		t.Errorf("got %v, %v, want from %v to %v", got, err, least, most)
	}
	if used, _, err := machineCPU(); err != nil || used < got-tick {
		t.Errorf("the machine has used %v, %v, and this process alone %v", used, err, got)
	}
}

func usage(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// What a process has started is found below it, and ends with it.
func TestProcessTree(t *testing.T) {
	p, err := start(exec.Command("sh", "-c", "sleep 60 & wait"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	var tree []int
	for len(tree) < 2 { // until sh has started sleep
		if tree, err = processTree(p.pid()); err != nil {
			t.Fatal(err)
		}
	}
	if tree[0] != p.pid() {
		t.Errorf("got %v, want %d first", tree, p.pid())
	}
	p.stop()
	for running(tree[1]) { // until the signal has come
	}
}

// running reports whether pid exists and is not a zombie.
func running(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(line, []byte(") "))
	return len(rest) > 0 && rest[0] != 'Z' && rest[0] != 'X'
}
