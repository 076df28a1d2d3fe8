package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
	"github.com/lbproxy/lbproxy/picker"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// withDescriptors limits the binary to so many file descriptors.
func withDescriptors(n int) []string {
	return []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, n)}
}

func (p *process) metrics() map[string]float64 {
	p.t.Helper()
	_, page := get(p.t, "http://"+p.admin+"/metrics")
	return parseMetrics(p.t, page)
}

// With fewer file descriptors than there are endpoints, some go without and say so, and all else works.
func TestMoreEndpointsThanDescriptors(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		const endpoints, limit, callers = 300, 290, 20
		config := filepath.Join(t.TempDir(), "lbproxy.yaml")
		configure := func(text string) {
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		configure("services: {big: {}}\n")
		if err := putMany(t, w, endpoints, startEverywhere(t)); err != nil {
			t.Fatal(err)
		}
		p := w.startBinaryBy(withDescriptors(limit), "--config", config)
		ready, without := 0, 0
		await(t, "a state for every endpoint", func() bool {
			ready, without = 0, 0
			for _, in := range getService(t, p.admin, "big").Instances {
				switch {
				case in.State == picker.Ready.String():
					ready++
				case strings.Contains(in.LastError, fmt.Sprintf("RLIMIT_NOFILE is %d", limit)):
					without++
				}
			}
			return ready+without == endpoints
		})
		if ready < endpoints/4 || without < endpoints/4 {
			t.Errorf("%d endpoints are ready and %d are not, want a good part of both", ready, without)
		}
		if got := p.metrics()["lbproxy_endpoints_without_descriptor"]; got != float64(without) {
			t.Errorf("%v endpoints without a descriptor in the metrics, want %d", got, without)
		}
		for range callers {
			if _, err := sayHello(within(t), p.dial(t, grpc.WithAuthority("big"))); err != nil {
				t.Fatal(err)
			}
		}
		if code, body := get(t, "http://"+p.admin+"/readyz"); code != 200 {
			t.Errorf("/readyz = %d %s", code, body)
		}
		configure("services: {big: {policy: random}}\n")
		p.signal(syscall.SIGHUP)
		await(t, "the new configuration", func() bool {
			return p.metrics()[`lbproxy_config_reloads_total{result="applied"}`] > 0
		})

		_, err := etcdtest.Client(t, w.etcd).Delete(t.Context(), w.root+"/big/127.1.0", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		awaitReady(t, p.admin, "big", endpoints-200)
		if got := p.metrics()["lbproxy_endpoints_without_descriptor"]; got != 0 {
			t.Errorf("%v endpoints without a descriptor in the metrics, want none", got)
		}
	})
}

// Idle callers leave descriptors to backends and etcd, and on the relay room for callers that have calls.
func TestMoreCallersThanDescriptors(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		const callers, limit = 1000, 256
		in := w.startInstance("hello", "", 1)
		toEtcd := etcdtest.Forward(t, w.etcd)
		w.etcd = toEtcd.Endpoint()
		p := w.startBinaryBy(withDescriptors(limit))
		before := p.dial(t)
		if _, err := sayHello(within(t), before); err != nil {
			t.Fatal(err)
		}
		turnedAway := 0
		for range callers {
			if !greetAndIdle(t, p.calls) {
				turnedAway++
			}
		}
		if turnedAway < callers-limit || turnedAway > callers-limit/4 {
			t.Errorf("%d of %d callers are turned away", turnedAway, callers)
		}
		if got := p.metrics()[`lbproxy_descriptor_shortages_total{cause="caller"}`]; got != float64(turnedAway) {
			t.Errorf("%v callers are turned away in the metrics, want %d", got, turnedAway)
		}

		toEtcd.Cut()
		toEtcd.Resume()
		in.kill()
		in.deregister()
		other := w.startInstance("hello", "", 1)
		await(t, "connection to the other instance", func() bool {
			all := getService(t, p.admin, "hello").Instances
			return len(all) == 1 && all[0].Addr == other.addr && all[0].State == picker.Ready.String()
		})
		if addr, err := sayHello(within(t), before); err != nil || addr != other.addr {
			t.Errorf("a call of an old caller ends with %q, %v; want %q", addr, err, other.addr)
		}
		if w.engine.name != configs.EngineRelay {
			return
		}
		await(t, "room for a new caller", func() bool {
			_, err := sayHello(within(t), p.dial(t))
			return err == nil
		})
		if got := p.metrics()[`lbproxy_descriptor_shortages_total{cause="idle_caller"}`]; got == 0 {
			t.Error("no idle caller was asked to leave, in the metrics")
		}
	})
}

// Idle connections to the admin API leave descriptors to calls.
func TestIdleAdminConnectionsLeaveDescriptors(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		const limit = 200
		w.startInstance("hello", "", 1)
		p := w.startBinaryBy(withDescriptors(limit))
		for i := range limit {
			c, err := net.Dial("tcp", p.admin)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: lbproxy\r\n\r\n")
			if i == 0 {
				if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 20 {
			if _, err := sayHello(within(t), p.dial(t)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// greetAndIdle connects a caller that has no calls, and tells whether it was let in.
func greetAndIdle(t *testing.T, addr string) bool {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fr := http2.NewFramer(c, c)
	_, _ = io.WriteString(c, http2.ClientPreface)
	_ = fr.WriteSettings() // if it fails, so does what is read
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return false
		}
		if s, ok := f.(*http2.SettingsFrame); ok && s.IsAck() {
			return true
		}
	}
}
