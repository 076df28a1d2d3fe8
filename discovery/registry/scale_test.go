package registry_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/registry"
)

// putMany registers n instances of big with the given weight, many to a transaction.
func (e store) putMany(n, weight int) {
	e.t.Helper()
	const batch = 100
	for from := 0; from < n; from += batch {
		var ops []clientv3.Op
		for i := from; i < min(from+batch, n); i++ {
			addr := fmt.Sprintf("10.%d.%d.%d:1001", i>>16, i>>8&255, i&255)
			ops = append(ops, clientv3.OpPut("/big/1.0.0/"+addr,
				fmt.Sprintf(`{"name":"big","addr":%q,"version":"1.0.0","weight":%d}`, addr, weight)))
		}
		if _, err := e.Txn(e.t.Context()).Then(ops...).Commit(); err != nil {
			e.t.Fatal(err)
		}
	}
}

// awaitAll waits for a last snapshot that fits.
func (f *follower) awaitAll(ok func(discovery.Snapshot) bool) discovery.Snapshot {
	f.t.Helper()
	timeout := time.After(patience)
	for {
		all, changed := f.all()
		if n := len(all); n > 0 && ok(all[n-1]) {
			return all[n-1]
		}
		select {
		case <-changed:
		case <-timeout:
			f.t.Fatal("the last snapshot never got as wanted")
		}
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Not parallel, for the figures that it logs.
func TestEtcdTenThousandInstances(t *testing.T) {
	const n = 10_000
	e := newStore(t)
	e.putMany(n, 1)
	s := newSource(t, e.config(), registry.Limits{})
	s.follow(t, "small").await("")

	before, start := heap(), time.Now()
	f := s.follow(t, "big")
	first := f.awaitAll(func(s discovery.Snapshot) bool { return true })
	t.Logf("first snapshot of %d instances after %v", len(first.Instances), time.Since(start))
	if len(first.Instances) != n {
		t.Errorf("the first snapshot holds %d instances, want %d: all pages", len(first.Instances), n)
	}
	t.Logf("heap grew by %d KiB", (int64(heap())-int64(before))/1024)

	start = time.Now()
	e.put("/big/1.0.0/10.0.0.0:1001", `{"weight":7}`)
	f.awaitAll(func(s discovery.Snapshot) bool { return s.Instances[0].Weight == 7 })
	t.Logf("a put was published after %v", time.Since(start))

	// A storm: each change by itself is cheap to etcd, and a snapshot of them all each time is not to us.
	start = time.Now()
	seen, _ := f.all()
	for i := range n / 10 {
		e.put(fmt.Sprintf("/big/1.0.0/10.0.%d.%d:1001", i>>8, i&255), `{"weight":2}`)
	}
	e.putMany(n, 3)
	f.awaitAll(func(s discovery.Snapshot) bool {
		for _, in := range s.Instances {
			if in.Weight != 3 {
				return false
			}
		}
		return len(s.Instances) == n
	})
	all, _ := f.all()
	t.Logf("%d changes made %d snapshots in %v", n/10+n, len(all)-len(seen), time.Since(start))
	if got := s.value(t, "lbproxy_discovery_relists_total/start"); got != 2 {
		t.Errorf("%v lists, want one for each service", got)
	}
}
