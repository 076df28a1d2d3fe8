package e2e

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap/zapcore"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/traffic"
)

// What can change while the proxy runs does so under calls, without failing any.
func TestReload(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		light, heavy := w.startInstance("hello", "1.0.0", 1), w.startInstance("hello", "2.0.0", 9)
		other := w.startInstance("other", "", 1)
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 2)
		cc := p.dial("hello")
		load := p.startLoad("hello", 2)

		// Policy.
		p.reload(listedAs("hello", func(s *traffic.Service) { s.Policy = picker.RoundRobin }))
		if got := p.service("hello").Policy; got != picker.RoundRobin {
			t.Errorf("policy = %s", got)
		}
		if got := p.shareOf(light.addr, func() { greet(t, cc, 200) }); got < 0.4 || got > 0.6 {
			t.Errorf("by round_robin the lighter of two instances gets %.2f of the calls", got)
		}

		// Version.
		p.reload(listedAs("hello", func(s *traffic.Service) { s.Version = "1.0.0" }))
		if diff := cmp.Diff(greet(t, cc, 20), map[string]int{light.addr: 20}); diff != "" {
			t.Errorf("answers when limited to version 1.0.0 (-got +want):\n%s", diff)
		}
		p.reload(listed("hello"))
		if got := p.shareOf(heavy.addr, func() { greet(t, cc, 200) }); got < 0.8 {
			t.Errorf("by weight the heavier of two instances gets %.2f of the calls", got)
		}

		// Routes.
		p.reload(func(cfg *configs.Config) {
			cfg.Routes = []traffic.Route{{Method: "/helloworld.", Authority: "elsewhere", Service: "other"}}
		})
		if diff := cmp.Diff(greet(t, p.dial("elsewhere"), 5), map[string]int{other.addr: 5}); diff != "" {
			t.Errorf("answers by the new route (-got +want):\n%s", diff)
		}

		// A service that is listed from now on is watched and connected before its first call; one that is not
		// listed any more is on demand.
		third := w.startInstance("third", "", 1)
		p.reload(listed("third"))
		p.awaitReady("third", 1)
		if s := p.service("hello"); s.Listed || len(s.Instances) != 2 {
			t.Errorf("the service that is not listed any more: %+v", s)
		}
		if diff := cmp.Diff(greet(t, p.dial("third"), 5), map[string]int{third.addr: 5}); diff != "" {
			t.Errorf("answers of the new service (-got +want):\n%s", diff)
		}

		if calls, err := load.stop(); err != nil {
			t.Errorf("of %d calls during the changes one fails: %v", calls, err)
		}
	})
}

// shareOf is the share of all calls to "hello" that an instance gets while calls are made, whoever makes them.
func (p *lbproxy) shareOf(addr string, calls func()) float64 {
	p.t.Helper()
	count := func() (its, all float64) {
		for _, in := range p.service("hello").Instances {
			all += float64(in.Calls)
			if in.Addr == addr {
				its = float64(in.Calls)
			}
		}
		return its, all
	}
	itsBefore, allBefore := count()
	calls()
	its, all := count()
	return (its - itsBefore) / (all - allBefore)
}

func TestReloadOfTheLogLevel(t *testing.T) {
	w := newWorld(t, engines[0])
	p := w.startProxy()
	p.reload(func(cfg *configs.Config) { cfg.Log.Level = "error" })
	if got := p.level.Level(); got != zapcore.ErrorLevel {
		t.Errorf("level = %s", got)
	}
	p.reload(func(cfg *configs.Config) { cfg.Log.Level = "debug" })
	if got := p.level.Level(); got != zapcore.DebugLevel {
		t.Errorf("level = %s", got)
	}
}

// What takes a restart is left as it is, with a warning that names the keys; the rest is taken over.
func TestReloadThatTakesARestart(t *testing.T) {
	w := newWorld(t, engines[0])
	w.startInstance("hello", "", 1)
	p := w.startProxy()
	p.reload(listed("hello"), func(cfg *configs.Config) {
		cfg.Listeners = []configs.Listener{{Address: "127.0.0.1:1"}}
		cfg.Admin.Address = "127.0.0.1:2"
	})
	warnings := p.logs.FilterMessageSnippet("after a restart only").All()
	if len(warnings) != 1 {
		t.Fatalf("%d warnings, want 1", len(warnings))
	}
	if diff := cmp.Diff(warnings[0].ContextMap()["keys"], []any{"listeners", "admin.address"}); diff != "" {
		t.Errorf("keys in the warning (-got +want):\n%s", diff)
	}
	p.awaitReady("hello", 1)
	greet(t, p.dial("hello"), 1)
}

func TestReloadsAreCounted(t *testing.T) {
	w := newWorld(t, engines[0])
	p := w.startProxy()
	p.reload()
	p.reload()
	p.ReloadFailed(errors.New("line 3: no such key"))
	m := p.metrics()
	if got := m[`lbproxy_config_reloads_total{result="applied"}`]; got != 2 {
		t.Errorf("applied = %v, want 2", got)
	}
	if got := m[`lbproxy_config_reloads_total{result="rejected"}`]; got != 1 {
		t.Errorf("rejected = %v, want 1", got)
	}
}
