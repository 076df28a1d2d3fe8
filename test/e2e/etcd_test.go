package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

// Without etcd, calls go on to the instances last known; the proxy stays ready and shows how old its knowledge
// is. When etcd is back, it learns what is new.
func TestCallsGoOnWithoutEtcd(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		etcd := etcdtest.Start(t)
		w.on(etcd.Endpoint())
		one, two := w.startInstance("hello", "", 1), w.startInstance("hello", "", 1)
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 2)
		await(t, "readiness", func() bool { return p.Ready() == nil })
		cc := p.dial("hello")

		etcd.Stop()
		staleness := func() float64 { return p.metrics()["lbproxy_discovery_staleness_seconds"] }
		await(t, "growing staleness", func() bool { return staleness() > 0.5 })
		if diff := cmp.Diff(greet(t, cc, 20), map[string]int{one.addr: 10, two.addr: 10}); diff != "" {
			t.Errorf("answers without etcd (-got +want):\n%s", diff)
		}
		if code, body := p.admin("/readyz"); code != http.StatusOK {
			t.Errorf("/readyz without etcd: %d %s", code, body)
		}
		two.kill()
		await(t, "lost connection", func() bool { return p.ready("hello") == 1 })
		greet(t, cc, 20)

		if err := etcd.Restart(); err != nil {
			t.Fatal(err)
		}
		three := w.startInstance("hello", "", 1)
		await(t, "answer of an instance that is registered since", func() bool { return greet(t, cc, 2)[three.addr] > 0 })
		await(t, "knowledge that is fresh", func() bool { return staleness() < 0.5 })
	})
}

// A proxy that starts before etcd says so, fails calls with the reason, and heals by itself.
func TestProxyStartsBeforeEtcd(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		etcd := etcdtest.Start(t)
		w.on(etcd.Endpoint())
		in := w.startInstance("hello", "", 1)
		etcd.Stop()

		p := w.startProxy(listed("hello"))
		await(t, "reason for not being ready", func() bool {
			code, body := p.admin("/readyz")
			return code == http.StatusServiceUnavailable && strings.Contains(body, "etcd at "+etcd.Endpoint()+" does not answer")
		})
		if code, _ := p.admin("/healthz"); code != http.StatusOK {
			t.Errorf("/healthz = %d, want 200: a restart of the proxy would not help", code)
		}
		cc := p.dial("hello")
		_, err := sayHello(within(t), cc)
		if got := reasonOf(err); got != "discovery_unavailable" {
			t.Errorf("the call ends by %v", err)
		}

		if err := etcd.Restart(); err != nil {
			t.Fatal(err)
		}
		await(t, "readiness", func() bool {
			code, _ := p.admin("/readyz")
			return code == http.StatusOK
		})
		p.awaitReady("hello", 1)
		if diff := cmp.Diff(greet(t, cc, 5), map[string]int{in.addr: 5}); diff != "" {
			t.Errorf("answers (-got +want):\n%s", diff)
		}
	})
}

// A listed service of which nothing is known yet keeps the proxy from being ready; one that is known to have no
// instances does not.
func TestReadyOnceListedServicesAreKnown(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		p := w.startProxy(listed("nobody", "hello"))
		await(t, "readiness", func() bool {
			code, body := p.admin("/readyz")
			return code == http.StatusOK && body == "ready\n"
		})
		for _, service := range []string{"nobody", "hello"} {
			if s := p.service(service); !s.Synced || !s.Listed {
				t.Errorf("ready, and of %s known is %+v", service, s)
			}
		}
	})
}
