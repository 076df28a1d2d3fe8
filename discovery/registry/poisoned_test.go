package registry_test

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest/observer"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registry"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

const (
	skippedLine    = "registry entry is skipped"
	mismatchedLine = "registry entry's value contradicts its key, which wins"
)

func TestEtcdSkipsPoisonedEntries(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	forwarder := etcdtest.Forward(t, e.endpoint)
	poisoned := []string{
		"/user/10.0.0.2:1001", `no JSON`,
		"/user/10.0.0.3:1001", `{"weight":-1}`,
		"/user/10.0.0.4", `{}`,
		"/user/1.0.0//10.0.0.5:1001", `{}`,
		"/user/", `{}`,
	}
	for i := 0; i < len(poisoned); i += 2 {
		e.put(poisoned[i], poisoned[i+1])
	}
	e.put("/user/10.0.0.1:1001", `{"name":"admin","addr":"10.9.9.9:1","version":"2","weight":2}`)
	s := newSource(t, etcd.Config{Endpoints: []string{forwarder.Endpoint()}}, impatient)
	f := s.follow(t, "user")
	f.await("10.0.0.1:1001=2")

	// Listing again is no reason to count again.
	forwarder.Cut()
	etcdtest.Eventually(t, "the watch to be lost", func() bool { return s.logs.FilterMessage(lostLine).Len() > 0 })
	forwarder.Resume()
	etcdtest.Eventually(t, "the state confirmed", func() bool { return s.logs.FilterMessage(confirmedLine).Len() > 0 })
	wantCounts := func(poisoned, mismatched float64) {
		t.Helper()
		if got := s.value(t, "lbproxy_discovery_poisoned_total"); got != poisoned {
			t.Errorf("%v poisoned entries counted, want %v", got, poisoned)
		}
		if got := s.value(t, "lbproxy_discovery_mismatched_total"); got != mismatched {
			t.Errorf("%v mismatched entries counted, want %v", got, mismatched)
		}
		s.wantLogged(t, map[string]int{skippedLine: int(poisoned), mismatchedLine: int(mismatched)})
	}
	wantCounts(5, 1)

	// A new revision is counted anew, cured or not.
	e.put("/user/10.0.0.2:1001", `still no JSON`)
	e.put("/user/10.0.0.3:1001", `{"weight":3}`)
	f.await("10.0.0.1:1001=2 10.0.0.3:1001=3")
	wantCounts(6, 1)
	line := s.logs.FilterMessage(skippedLine).All()[5].ContextMap()
	if line["service"] != "user" || line["key"] != "/user/10.0.0.2:1001" || line["last_good_value_kept"] != false {
		t.Errorf("the log line's fields are %v, want the service and the key", line)
	}
}

func TestEtcdKeepsThePoisonedEntrysGoodValue(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	const keep = 2 * time.Second
	e.put("/user/10.0.0.1:1001", `{"weight":1}`)
	e.put("/user/10.0.0.2:1001", `{"weight":2}`)
	e.put("/user/10.0.0.3:1001", `{"weight":3}`)
	s := newSource(t, e.config(), registry.Limits{KeepPoisoned: keep})
	f := s.follow(t, "user")
	f.await("10.0.0.1:1001=1 10.0.0.2:1001=2 10.0.0.3:1001=3")

	start := time.Now()
	e.put("/user/10.0.0.1:1001", `{`)
	e.put("/user/10.0.0.2:1001", `{`)
	e.put("/user/10.0.0.2:1001", `{"weight":20}`) // cured in time
	// Deleted and registered anew, the entry has never been good.
	e.delete("/user/10.0.0.3:1001")
	e.put("/user/10.0.0.3:1001", `{`)
	f.await("10.0.0.1:1001=1 10.0.0.2:1001=20")
	e.put("/user/10.0.0.1:1001", `{{`) // poisoned again: no more time for that
	f.await("10.0.0.2:1001=20")
	if took := time.Since(start); took < keep {
		t.Errorf("the good value went after %v, want it kept for %v", took, keep)
	}
	keptOf := func(l observer.LoggedEntry) bool { return l.ContextMap()["last_good_value_kept"] == true }
	kept := 0
	for _, l := range s.logs.FilterMessage(skippedLine).All() {
		if keptOf(l) {
			kept++
		}
	}
	if kept != 3 {
		t.Errorf("%d log lines say that the last good value is kept, want 3", kept)
	}
}

// A snapshot tells what is wrong, and a change of that alone is a snapshot.
func TestEtcdSnapshotShowsPoisonedEntries(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	s := newSource(t, e.config(), registry.Limits{})
	f := s.follow(t, "user")
	f.await("")
	for _, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"two that never were good", func() {
			e.put("/user/10.0.0.2", `{}`)
			e.put("/user/10.0.0.1:1001", `{"weight":-1}`)
		}, `/user/10.0.0.1:1001 weight -1 is out of range; use 0 (drained) to 65535, ` +
			`/user/10.0.0.2 address "10.0.0.2" is not host:port`},
		{"one is cured", func() { e.put("/user/10.0.0.1:1001", `{}`) }, `/user/10.0.0.2 address "10.0.0.2" is not host:port`},
		{
			"and poisoned again, its good value kept", func() { e.put("/user/10.0.0.1:1001", `null`) },
			`/user/10.0.0.1:1001 value is null, /user/10.0.0.2 address "10.0.0.2" is not host:port`,
		},
		{"all are gone", func() { e.delete("/user/10.0.0.1:1001"); e.delete("/user/10.0.0.2") }, ""},
	} {
		step.do()
		f.awaitAll(func(s discovery.Snapshot) bool {
			var all []string
			for _, entry := range s.Poisoned {
				all = append(all, entry.Key+" "+entry.Fault)
				if entry.Revision == 0 {
					t.Errorf("%s: %s has no revision", step.name, entry.Key)
				}
			}
			return strings.Join(all, ", ") == step.want
		})
		poisoned := 0
		if step.want != "" {
			poisoned = 1 + strings.Count(step.want, ", /")
		}
		if got := s.value(t, "lbproxy_discovery_poisoned_entries/user"); got != float64(poisoned) {
			t.Errorf("%s: the metrics have %v poisoned entries, want %d", step.name, got, poisoned)
		}
	}
}
