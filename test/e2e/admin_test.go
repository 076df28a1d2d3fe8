package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/traffic"
)

// mustTellOfRecentCalls checks what is said of three calls that have just gone well, and takes it out.
func mustTellOfRecentCalls(t *testing.T, s map[string]any) {
	t.Helper()
	recent, _ := s["recent"].(map[string]any)
	rate, _ := recent["calls_per_second"].(float64)
	p99, _ := recent["p99_seconds"].(float64)
	if len(recent) != 3 || rate <= 0 || rate > 3 || recent["error_share"] != 0. || p99 <= 0 || p99 > patience.Seconds() {
		t.Errorf("recent = %v, want three good calls", recent)
	}
	delete(s, "recent")
}

// What people and scripts find on /services.
func TestServicesPage(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		in := w.startInstance("hello", "1.0.0", 7)
		p := w.startProxy(listed("hello", "nobody"))
		p.awaitReady("hello", 1)
		greet(t, p.dial("hello"), 3)
		stream := p.converse(within(t), "hello")
		p.mustAsk(stream)

		registered := in.Status()
		instance := map[string]any{
			"addr": in.addr, "key": fmt.Sprintf("%s/hello/1.0.0/%s", w.root, in.addr), "version": "1.0.0", "weight": 7.,
			"create_revision": float64(registered.CreateRevision), "mod_revision": float64(registered.ModRevision),
			"state": "ready", "in_flight": 1., "calls": 4.,
		}
		hello := map[string]any{
			"service": "hello", "listed": true, "wait_timeout": "1s", "in_flight": 1., "calls": 4.,
			"policy": "weighted_round_robin", "synced": true, "registry": "filled", "instances": []any{instance},
		}
		nobody := map[string]any{
			"service": "nobody", "listed": true, "wait_timeout": "1s", "in_flight": 0., "calls": 0.,
			"policy": "weighted_round_robin", "synced": true, "registry": "unknown", "instances": []any{},
		}
		var all []map[string]any
		await(t, "end of the unary calls", func() bool {
			all = nil
			p.mustGet("/services", &all)
			return all[0]["in_flight"] == 1.
		})
		var one map[string]any
		p.mustGet("/services/hello", &one)
		for _, s := range append(all, one) {
			if revision, _ := s["revision"].(float64); int64(revision) < registered.ModRevision && s["service"] == "hello" {
				t.Errorf("revision %v is older than the instance's, %d", s["revision"], registered.ModRevision)
			}
			delete(s, "revision")
			if confirmed, ok := s["confirmed"].(float64); !ok || confirmed < 0 || confirmed > patience.Seconds() {
				t.Errorf("the registry confirmed %v %v s ago", s["service"], s["confirmed"])
			}
			delete(s, "confirmed")
			if s["service"] == "hello" {
				mustTellOfRecentCalls(t, s)
			}
			for _, in := range s["instances"].([]any) {
				in := in.(map[string]any)
				mustTellOfRecentCalls(t, in)
				since, err := time.Parse(time.RFC3339Nano, fmt.Sprint(in["since"]))
				if err != nil || time.Since(since) > patience || time.Since(since) < 0 {
					t.Errorf("since = %v, %v", in["since"], err)
				}
				delete(in, "since")
			}
		}
		if diff := cmp.Diff(all, []map[string]any{hello, nobody}); diff != "" {
			t.Errorf("/services (-got +want):\n%s", diff)
		}
		if diff := cmp.Diff(one, hello); diff != "" {
			t.Errorf("/services/hello (-got +want):\n%s", diff)
		}

		in.kill()
		await(t, "last error", func() bool {
			in := p.service("hello").Instances[0]
			return in.State == "failed" && strings.Contains(in.LastError, "connection refused")
		})
	})
}

// What the registry says of a service is told apart where nothing can be called.
func TestServicesPageShowsTheRegistry(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		etcd := etcdtest.Client(t, w.etcd)
		key := w.root + "/poisoned/127.0.0.1:1"
		put, err := etcd.Put(t.Context(), key, `{"weight":-1}`)
		if err != nil {
			t.Fatal(err)
		}
		in := w.startInstance("empty", "", 1)
		p := w.startProxy(listed("empty", "poisoned", "unknown"))
		p.awaitReady("empty", 1)
		in.deregister()
		for service, want := range map[string]proxy.RegistryState{
			"empty": proxy.RegistryEmpty, "poisoned": proxy.RegistryEmpty, "unknown": proxy.RegistryUnknown,
		} {
			await(t, "state of "+service, func() bool { return p.service(service).Registry == want })
		}
		got, want := p.service("poisoned").Poisoned, []picker.PoisonedStatus{{
			Key: key, Revision: put.Header.Revision, Fault: "weight -1 is out of range; use 0 (drained) to 65535",
		}}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("poisoned entries (-got +want):\n%s", diff)
		}

		w.on("127.0.0.1:1")
		p = w.startProxy(listed("hello"))
		if got := p.service("hello"); got.Registry != proxy.RegistryUnsynced || got.Confirmed != nil {
			t.Errorf("without a registry: %+v, want it unsynced", got.RegistryStatus)
		}
	})
}

func TestServiceThatIsNotWatched(t *testing.T) {
	w := newWorld(t, engines[0])
	p := w.startProxy()
	code, body := p.admin("/services/nobody")
	if code != http.StatusNotFound || !strings.Contains(body, `"nobody\" is not watched`) {
		t.Errorf("%d %s", code, body)
	}
}

// The running configuration is shown with the keys of the file, and without what must not be seen.
func TestConfigPage(t *testing.T) {
	w := newWorld(t, engines[0])
	p := w.startProxy(listed("hello"), func(cfg *configs.Config) {
		cfg.Discovery.Etcd.Endpoints = append(cfg.Discovery.Etcd.Endpoints, "http://me:secret@127.0.0.1:1")
		cfg.DrainTimeout = 7 * time.Second
	})
	var page struct {
		Engine       string
		DrainTimeout string `json:"drain_timeout"`
		Discovery    struct {
			Etcd struct {
				Endpoints []string
				Root      string
			}
		}
		Services map[string]struct {
			WaitTimeout string `json:"wait_timeout"`
		}
	}
	p.mustGet("/config", &page)
	if _, body := p.admin("/config"); strings.Contains(body, "secret") {
		t.Errorf("/config shows a password:\n%s", body)
	}
	if got, want := page.Discovery.Etcd.Endpoints, []string{w.etcd, "http://xxxxx@127.0.0.1:1"}; !cmp.Equal(got, want) {
		t.Errorf("endpoints = %v, want %v", got, want)
	}
	if page.Engine != w.engine.name || page.DrainTimeout != "7s" ||
		page.Discovery.Etcd.Root != w.root || page.Services["hello"].WaitTimeout != "1s" {
		t.Errorf("/config = %+v", page)
	}

	p.reload(listedAs("hello", func(s *traffic.Service) { s.WaitTimeout = 9 * time.Second }))
	p.mustGet("/config", &page)
	if got := page.Services["hello"].WaitTimeout; got != "9s" {
		t.Errorf("wait_timeout after a reload = %s", got)
	}
}

// Everything is on the admin address; on the metrics address only what other hosts may see.
func TestAdminAndMetricsAddresses(t *testing.T) {
	w := newWorld(t, engines[0])
	metrics := newAddr(t)
	p := w.startProxy(func(cfg *configs.Config) { cfg.Metrics.Address = metrics })
	await(t, "readiness", func() bool { return p.Ready() == nil })
	for path, public := range map[string]bool{
		"/metrics": true, "/healthz": true, "/readyz": true,
		"/": false, "/services": false, "/config": false, "/debug/pprof/": false, "/debug/pprof/goroutine": false,
	} {
		if code, body := p.admin(path); code != http.StatusOK || body == "" {
			t.Errorf("admin address: %s = %d %q", path, code, body)
		}
		want := http.StatusNotFound
		if public {
			want = http.StatusOK
		}
		if code, _ := get(t, "http://"+metrics+path); code != want {
			t.Errorf("metrics address: %s = %d, want %d", path, code, want)
		}
	}
	for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "ready\n"} {
		if _, body := p.admin(path); body != want {
			t.Errorf("%s = %q, want %q", path, body, want)
		}
	}
	if code, _ := p.admin("/nothing"); code != http.StatusNotFound {
		t.Errorf("a page that is none = %d", code)
	}
}

// mustGet decodes a page of the admin API.
func (p *lbproxy) mustGet(path string, page any) {
	p.t.Helper()
	code, body := p.admin(path)
	if code != http.StatusOK {
		p.t.Fatalf("%s = %d %s", path, code, body)
	}
	if err := json.Unmarshal([]byte(body), page); err != nil {
		p.t.Fatalf("%s: %v in\n%s", path, err, body)
	}
}
