package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

// What 10,000 instances of one service cost the process, and how long it takes to learn of them and to connect.
// The instances are addresses of 127.0.0.0/8: one server answers at all of them, or none does. Run it with
// -benchtime 1x.
func BenchmarkTenThousandInstances(b *testing.B) {
	const instances = 10_000
	for _, e := range engines {
		for _, c := range []struct {
			name string
			port func(testing.TB) int
			idle string // the state that they come to
		}{
			{"connected", startEverywhere, "ready"},
			{"unreachable", func(testing.TB) int { return 1 }, "failed"},
		} {
			b.Run(e.name+"/"+c.name, func(b *testing.B) {
				w := newWorld(b, e)
				port := c.port(b)
				for b.Loop() {
					p := w.startBinary()
					before := p.memory()
					if err := putMany(b, w, instances, port); err != nil {
						b.Fatal(err)
					}
					start := time.Now()
					cc := dial(b, "passthrough:///"+p.calls, grpc.WithAuthority("big"))
					for {
						if _, err := sayHello(within(b), cc); err == nil || c.idle == "failed" {
							break
						}
					}
					first := time.Since(start)
					await(b, fmt.Sprint(instances, " instances ", c.idle), func() bool {
						_, page := get(b, "http://"+p.admin+"/services/big")
						return strings.Count(page, fmt.Sprintf(`"state": %q`, c.idle)) == instances
					})
					settled := time.Since(start)
					after := p.memory()
					b.ReportMetric(before.resident/1e6, "MB-before")
					b.ReportMetric(after.resident/1e6, "MB-after")
					b.ReportMetric((after.heap-before.heap)/instances/1e3, "kB-heap/instance")
					if c.idle == "ready" {
						b.ReportMetric(first.Seconds()*1000, "ms-first-answer")
					}
					b.ReportMetric(settled.Seconds()*1000, "ms-all-"+c.idle)
					p.signal(syscall.SIGTERM)
					p.awaitExit()
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// memory is what a process takes, in bytes.
type memory struct{ resident, heap float64 }

func (p *process) memory() memory {
	p.t.Helper()
	get(p.t, "http://"+p.admin+"/debug/pprof/heap?gc=1") // collects garbage
	_, page := get(p.t, "http://"+p.admin+"/metrics")
	m := parseMetrics(p.t, page)
	return memory{m["process_resident_memory_bytes"], m["go_memstats_heap_inuse_bytes"] + m["go_memstats_stack_inuse_bytes"]}
}

// putMany registers n instances of "big" at one port of n addresses, without leases.
func putMany(b testing.TB, w *world, n, port int) error {
	etcd := etcdtest.Client(b, w.etcd)
	g, ctx := errgroup.WithContext(b.Context())
	g.SetLimit(16)
	const each = 50 // operations in a transaction
	for from := 0; from < n; from += each {
		g.Go(func() error {
			var puts []clientv3.Op
			for i := from; i < from+each; i++ {
				key := fmt.Sprintf("%s/big/127.1.%d.%d:%d", w.root, i/200, i%200+1, port)
				puts = append(puts, clientv3.OpPut(key, "{}"))
			}
			_, err := etcd.Txn(ctx).Then(puts...).Commit()
			return err
		})
	}
	return g.Wait()
}

// startEverywhere starts a backend that answers at every address of 127.0.0.0/8, and returns its port.
func startEverywhere(t testing.TB) int {
	onLoopback := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "lo") }), err)
	}}
	l, err := onLoopback.Listen(context.Background(), "tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	newBackend().serve(t, l)
	return l.Addr().(*net.TCPAddr).Port
}
