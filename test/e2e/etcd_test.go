package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
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

// What is known of why etcd does not answer is said at once: where it is asked for, to calls, and in the log.
func TestReasonWhyEtcdDoesNotAnswer(t *testing.T) {
	w := newWorld(t, engines[0])
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	for _, c := range []struct{ name, etcd, says string }{
		{"nobody listens", "127.0.0.1:1", "127.0.0.1:1: connect: connection refused"},
		{"something else listens", web.Listener.Addr().String(), "is not etcd, it speaks HTTP/1.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, w.engine)
			w.on(c.etcd)
			p := w.startProxy(listed("hello"))
			await(t, "reason in /readyz", func() bool {
				_, body := p.admin("/readyz")
				return strings.Contains(body, c.says)
			})
			await(t, "reason in /services/hello", func() bool { return strings.Contains(p.service("hello").RegistryError, c.says) })
			if _, err := sayHello(within(t), p.dial("hello")); !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("the call ends by %v, want it to say %q", err, c.says)
			}
			logged := p.logs.FilterMessage("not ready; trying on").All()
			if len(logged) != 1 || !strings.Contains(fmt.Sprint(logged[0].ContextMap()["error"]), c.says) {
				t.Errorf("logged is %v, want the reason, once", logged)
			}
		})
	}
}

// A service that is listed while etcd is away makes the proxy unready, and the reason is said.
func TestServiceListedWithoutEtcd(t *testing.T) {
	w := newWorld(t, engines[0])
	etcd := etcdtest.Start(t)
	w.on(etcd.Endpoint())
	p := w.startProxy()
	await(t, "readiness", func() bool { return p.Ready() == nil })
	etcd.Stop()
	p.reload(listed("hello"))
	await(t, "reason", func() bool {
		_, body := p.admin("/readyz")
		return strings.Contains(body, `nothing is known of service "hello" yet: `) && strings.Contains(body, "connection refused")
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
