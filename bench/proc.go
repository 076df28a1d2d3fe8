//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of CPU time in /proc/stat: USER_HZ is 100 wherever Linux runs, see proc(5).
const tick = 10 * time.Millisecond

// processTree returns the pids of root and all its descendants. For root 0 it is empty.
func processTree(root int) ([]int, error) {
	if root == 0 {
		return nil, nil
	}
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		pid, parent, err := parseProcess(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		children[parent] = append(children[parent], pid)
	}
	tree := []int{root}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i]]...)
	}
	return tree, nil
}

// parseProcess reads a line of /proc/PID/stat: pid (name) state parent ... The name may hold anything.
func parseProcess(line []byte) (pid, parent int, err error) {
	begin, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if begin < 0 || end < begin {
		return 0, 0, fmt.Errorf("no name in %q", line)
	}
	if pid, err = strconv.Atoi(string(bytes.TrimSpace(line[:begin]))); err != nil {
		return 0, 0, err
	}
	rest := bytes.Fields(line[end+1:])
	if len(rest) < 2 {
		return 0, 0, fmt.Errorf("no parent in %q", line)
	}
	parent, err = strconv.Atoi(string(rest[1]))
	return pid, parent, err
}

// processCPU returns the user and system time of all threads that pid has and had, to the nanosecond: /proc has
// it in ticks, which are too coarse for a second of few calls. The clock's number is made as by
// clock_getcpuclockid(3).
func processCPU(pid int) (time.Duration, error) {
	const scheduler = 2 // CPUCLOCK_SCHED: what the thread group was scheduled for
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduler), &used); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(used.Nano()), nil
}

// machineCPU returns what has been used of all cores together, and how many there are.
func machineCPU() (used time.Duration, cores int, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	if used, cores, err = parseMachine(string(text)); err != nil {
		return 0, 0, fmt.Errorf("/proc/stat: %w", err)
	}
	return used, cores, nil
}

// parseMachine reads the lines "cpu user nice system idle iowait irq softirq steal guest guest_nice", of which the
// first is the sum of the others. Guests are part of user; what the hypervisor has stolen was used by others.
func parseMachine(text string) (used time.Duration, cores int, err error) {
	const idle, iowait, guest = 3, 4, 8
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || !strings.HasPrefix(fields[0], "cpu") {
			break
		}
		if fields[0] != "cpu" {
			cores++
			continue
		}
		for i, field := range fields[1:min(len(fields), guest+1)] {
			ticks, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, 0, err
			}
			if i != idle && i != iowait {
				used += time.Duration(ticks) * tick
			}
		}
	}
	if cores == 0 {
		return 0, 0, fmt.Errorf("no cores in %q", text)
	}
	return used, cores, nil
}

// currentRSS returns the resident memory of pids together, in bytes. Pages that they share count for each.
func currentRSS(pids []int) (int64, error) { return memory(pids, "VmRSS:") }

// peakRSS is the sum of each one's maximum.
func peakRSS(pids []int) (int64, error) { return memory(pids, "VmHWM:") }

func memory(pids []int, field string) (int64, error) {
	var sum int64
	for _, pid := range pids {
		file := fmt.Sprintf("/proc/%d/status", pid)
		text, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		bytes, err := parseMemory(string(text), field)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		sum += bytes
	}
	return sum, nil
}

// parseMemory reads a field of /proc/PID/status, such as "VmRSS:	    1234 kB".
func parseMemory(text, field string) (int64, error) {
	_, rest, _ := strings.Cut(text, field)
	words := strings.Fields(rest)
	if len(words) < 2 || words[1] != "kB" {
		return 0, fmt.Errorf("no %s in kB", field)
	}
	kilobytes, err := strconv.ParseInt(words[0], 10, 64)
	return kilobytes << 10, err
}
