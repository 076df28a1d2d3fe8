package e2e

import (
	"slices"
	"testing"
	"time"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

// How long after a PUT in etcd the first call goes to the new instance: watch, connect, pick, all included.
// The caller calls without a pause. Run it with -benchtime 20x for 20 samples.
func BenchmarkFromPutToFirstCall(b *testing.B) {
	for _, e := range engines {
		b.Run(e.name, func(b *testing.B) {
			w := newWorld(b, e)
			w.startInstance("hello", "", 1)
			joins := startBackend(b)
			etcd := etcdtest.Client(b, w.etcd)
			key := w.root + "/hello/" + joins.addr
			p := w.startProxy(listed("hello"))
			cc := p.dial("hello")
			var took []time.Duration
			for b.Loop() {
				p.awaitReady("hello", 1)
				start := time.Now()
				if _, err := etcd.Put(b.Context(), key, "{}"); err != nil {
					b.Fatal(err)
				}
				for {
					if addr, err := sayHello(within(b), cc); err != nil {
						b.Fatal(err)
					} else if addr == joins.addr {
						break
					}
				}
				took = append(took, time.Since(start))
				if _, err := etcd.Delete(b.Context(), key); err != nil {
					b.Fatal(err)
				}
			}
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2].Seconds()*1000, "ms-median")
			b.ReportMetric(took[len(took)-1].Seconds()*1000, "ms-max")
			b.ReportMetric(0, "ns/op") // holds the removal, too
		})
	}
}
