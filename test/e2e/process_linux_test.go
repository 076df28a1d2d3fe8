package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/lbproxy/lbproxy/proxy"
)

// dial connects a client to the proxy, where it calls "hello" unless it is told otherwise.
func (p *process) dial(t *testing.T, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	return dial(t, "passthrough:///"+p.calls, append([]grpc.DialOption{grpc.WithAuthority("hello")}, opts...)...)
}

// inFlight is how many calls run, by the metrics.
func (p *process) inFlight(t *testing.T) float64 {
	t.Helper()
	return p.sum(t, func(family, _ string) bool { return family == "lbproxy_calls_in_flight" })
}

// seen is how many calls of a service there have been, and are, by the metrics.
func (p *process) seen(t *testing.T, service string) float64 {
	t.Helper()
	return p.sum(t, func(family, labels string) bool {
		return (family == "lbproxy_calls_total" || family == "lbproxy_calls_in_flight") && strings.Contains(labels, fmt.Sprintf("service=%q", service))
	})
}

// failed is how many calls the proxy has failed for a reason, by the metrics.
func (p *process) failed(t *testing.T, why proxy.Reason) float64 {
	t.Helper()
	return p.sum(t, func(family, labels string) bool {
		return family == "lbproxy_errors_total" && strings.Contains(labels, fmt.Sprintf("reason=%q", why))
	})
}

// sum is what the series that are wanted add up to.
func (p *process) sum(t *testing.T, wanted func(family, labels string) bool) (n float64) {
	t.Helper()
	_, page := get(t, "http://"+p.admin+"/metrics")
	for series, value := range parseMetrics(t, page) {
		if family, labels, _ := strings.Cut(series, "{"); wanted(family, labels) {
			n += value
		}
	}
	return n
}

// leftovers is what calls could leave behind in the process.
type leftovers struct{ goroutines, files, heap, resident float64 }

func (p *process) leftovers(t *testing.T) leftovers {
	t.Helper()
	get(t, "http://"+p.admin+"/debug/pprof/heap?gc=1") // collects garbage
	_, page := get(t, "http://"+p.admin+"/metrics")
	m := parseMetrics(t, page)
	return leftovers{
		m["go_goroutines"], m["process_open_fds"], m["go_memstats_heap_inuse_bytes"], m["process_resident_memory_bytes"],
	}
}

// resetPeak makes peak start over, and returns the resident memory of now, in bytes.
func (p *process) resetPeak(t *testing.T) int64 {
	t.Helper()
	get(t, "http://"+p.admin+"/debug/pprof/heap?gc=1") // collects garbage
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.Process.Pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	return p.peak(t)
}

// peak is the most resident memory since resetPeak, in bytes.
func (p *process) peak(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := bytes.Cut(status, []byte("VmHWM:"))
	kilobytes, err := strconv.ParseInt(string(bytes.Fields(line)[0]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}

// mustNotHaveGrown fails the test if the process has taken more than calls may have it hold.
func (p *process) mustNotHaveGrown(t *testing.T, before int64) {
	t.Helper()
	grown := p.peak(t) - before
	t.Logf("the process has grown by %d MiB", grown/mebibyte)
	if grown > memoryBudget+memoryMargin {
		t.Errorf("that is more than %d MiB", (memoryBudget+memoryMargin)/mebibyte)
	}
}

// cpu is how much the process has used.
func (p *process) cpu(t *testing.T) time.Duration {
	t.Helper()
	_, page := get(t, "http://"+p.admin+"/metrics")
	return time.Duration(parseMetrics(t, page)["process_cpu_seconds_total"] * float64(time.Second))
}
