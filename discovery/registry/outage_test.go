package registry_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registry"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

const (
	stillLostLine = "instances still cannot be confirmed"
	lostLine      = "instances cannot be confirmed; the last known ones stay"
	confirmedLine = "instances are confirmed again"
)

// impatient limits notice silence within seconds.
var impatient = registry.Limits{Progress: 300 * time.Millisecond, Answer: time.Second}

// wantSnapshots checks that nothing else was published on the way.
func (f *follower) wantSnapshots(want ...string) {
	f.t.Helper()
	all, _ := f.all()
	var got []string
	for _, s := range all {
		got = append(got, brief(s.Instances))
	}
	if len(got) != len(want) {
		f.t.Fatalf("snapshots are %q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			f.t.Fatalf("snapshots are %q, want %q", got, want)
		}
	}
}

func (s *source) wantLogged(t *testing.T, want map[string]int) {
	t.Helper()
	for line, n := range want {
		if got := s.logs.FilterMessage(line).Len(); got != n {
			t.Errorf("%q was logged %d times, want %d", line, got, n)
		}
	}
}

// awaitUnconfirmed waits until etcd can confirm nothing that is known.
func (s *source) awaitUnconfirmed(t *testing.T, services float64) {
	t.Helper()
	etcdtest.Eventually(t, "services that etcd cannot confirm", func() bool {
		return s.value(t, "lbproxy_discovery_unconfirmed_services") == services
	})
}

func TestEtcdCompactedWhileDisconnected(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	forwarder := etcdtest.Forward(t, e.endpoint)
	e.put("/user/10.0.0.1:1001", `{}`)
	e.put("/user/10.0.0.2:1001", `{}`)
	s := newSource(t, etcd.Config{Endpoints: []string{forwarder.Endpoint()}}, registry.Limits{})
	f := s.follow(t, "user")
	f.await("10.0.0.1:1001=1 10.0.0.2:1001=1")

	forwarder.Cut()
	e.delete("/user/10.0.0.1:1001")
	e.put("/user/10.0.0.3:1001", `{}`)
	last, err := e.Put(t.Context(), "/user/10.0.0.3:1001", `{"weight":3}`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Compact(t.Context(), last.Header.Revision); err != nil {
		t.Fatal(err)
	}
	forwarder.Resume()

	f.await("10.0.0.2:1001=1 10.0.0.3:1001=3")
	f.wantSnapshots("10.0.0.1:1001=1 10.0.0.2:1001=1", "10.0.0.2:1001=1 10.0.0.3:1001=3")
	if got := s.value(t, "lbproxy_discovery_relists_total/compaction"); got != 1 {
		t.Errorf("%v relists because of compaction, want 1", got)
	}
	e.put("/user/10.0.0.2:1001", `{"weight":2}`)
	f.await("10.0.0.2:1001=2 10.0.0.3:1001=3")
	s.wantLogged(t, map[string]int{lostLine: 1, confirmedLine: 1})
}

func TestEtcdRestarted(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	e := store{etcdtest.Client(t, server.Endpoint()), t, server.Endpoint()}
	e.put("/user/10.0.0.1:1001", `{}`)
	cfg := e.config()
	cfg.DialTimeout = time.Second
	s := newSource(t, cfg, impatient)
	f := s.follow(t, "user")
	f.await("10.0.0.1:1001=1")

	server.Stop()
	s.awaitUnconfirmed(t, 1)
	etcdtest.Eventually(t, "the reason", func() bool {
		return strings.Contains(fmt.Sprint(s.Standing("user").Err), "connection refused")
	})
	etcdtest.Eventually(t, "staleness", func() bool { return s.value(t, "lbproxy_discovery_staleness_seconds") > 1 })
	s.wantLogged(t, map[string]int{lostLine: 1, confirmedLine: 0})
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	etcdtest.Eventually(t, "the state confirmed", func() bool { return s.logs.FilterMessage(confirmedLine).Len() > 0 })
	f.wantSnapshots("10.0.0.1:1001=1")
	e.put("/user/10.0.0.2:1001", `{}`)
	f.await("10.0.0.1:1001=1 10.0.0.2:1001=1")
	s.wantLogged(t, map[string]int{lostLine: 1, confirmedLine: 1})
	if got := s.relists(t); got != 1 {
		t.Errorf("%v lists, want none but the first", got)
	}
}

// relists is how many lists there have been.
func (s *source) relists(t *testing.T) (n float64) {
	t.Helper()
	for _, cause := range []string{"start", "compaction", "audit", "restored", "list_error"} {
		n += s.value(t, "lbproxy_discovery_relists_total/"+cause)
	}
	return n
}

func TestEtcdComesLater(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	server.Stop()
	s := newSource(t, etcd.Config{
		Endpoints: []string{server.Endpoint()}, DialTimeout: time.Second,
	}, registry.Limits{})
	f := s.follow(t, "user")
	etcdtest.Eventually(t, "lists that fail", func() bool {
		return s.value(t, "lbproxy_discovery_relists_total/list_error") >= 3
	})
	f.wantSnapshots()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	f.await("")
	e := store{etcdtest.Client(t, server.Endpoint()), t, server.Endpoint()}
	e.put("/user/10.0.0.1:1001", `{}`)
	f.await("10.0.0.1:1001=1")
	s.wantLogged(t, map[string]int{lostLine: 1, confirmedLine: 1})
}

func TestEtcdLosesItsLeader(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.StartCluster(t)
	e := store{etcdtest.Client(t, cluster.Endpoints()...), t, ""}
	put := func(key string) {
		t.Helper()
		// Writes fail during elections, and are not repeated by the client.
		etcdtest.Eventually(t, "a write", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := e.Put(ctx, key, `{}`)
			return err == nil
		})
	}
	put("/user/10.0.0.1:1001")
	s := newSource(t, etcd.Config{
		Endpoints: cluster.Endpoints(), DialTimeout: time.Second,
	}, registry.Limits{Progress: time.Second, Answer: time.Second})
	f := s.follow(t, "user")
	f.await("10.0.0.1:1001=1")

	first := cluster.Leader()
	cluster.Members[first].Stop()
	put("/user/10.0.0.2:1001")
	f.await("10.0.0.1:1001=1 10.0.0.2:1001=1")

	// Without a majority there is no leader, and no answer that could be trusted.
	second := cluster.Leader()
	cluster.Members[second].Stop()
	s.awaitUnconfirmed(t, 1)
	if err := cluster.Members[second].Restart(); err != nil {
		t.Fatal(err)
	}
	put("/user/10.0.0.3:1001")
	f.await("10.0.0.1:1001=1 10.0.0.2:1001=1 10.0.0.3:1001=1")
	f.wantSnapshots("10.0.0.1:1001=1", "10.0.0.1:1001=1 10.0.0.2:1001=1",
		"10.0.0.1:1001=1 10.0.0.2:1001=1 10.0.0.3:1001=1")
}

func TestEtcdConnectionStalls(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	forwarder := etcdtest.Forward(t, e.endpoint)
	e.put("/user/10.0.0.1:1001", `{}`)
	s := newSource(t, etcd.Config{
		Endpoints: []string{forwarder.Endpoint()}, DialTimeout: time.Second,
	}, impatient)
	f := s.follow(t, "user")
	f.await("10.0.0.1:1001=1")

	forwarder.Stall()
	e.put("/user/10.0.0.2:1001", `{}`)
	s.awaitUnconfirmed(t, 1)
	f.wantSnapshots("10.0.0.1:1001=1")
	forwarder.Resume()
	f.await("10.0.0.1:1001=1 10.0.0.2:1001=1")
	if got := s.relists(t); got != 1 {
		t.Errorf("%v lists, want none but the first", got)
	}
}

// The connection is well, etcd answers lists, and the stream that the watches ride on still has events for one
// service and nothing for the other. While one watch is left, etcd's client would put new ones on the same
// stream: it has to be given up as a whole.
func TestEtcdStreamGoesSilent(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	var mute atomic.Bool
	proxy := etcdtest.Intercept(t, e.endpoint, func(stream int, r *etcdtest.WatchResponse) bool {
		lively := len(r.Events) > 0 && strings.HasPrefix(string(r.Events[0].Kv.Key), "/lively/")
		return stream > 0 || lively || !mute.Load()
	})
	s := newSource(t, etcd.Config{Endpoints: []string{proxy.Endpoint()}}, impatient)
	user, lively := s.follow(t, "user"), s.follow(t, "lively")
	user.await("")
	lively.await("")
	e.put("/user/10.0.0.0:1001", `{}`)
	user.await("10.0.0.0:1001=1")
	mute.Store(true)

	weight := 0
	for _, want := range []string{
		"10.0.0.0:1001=1 10.0.0.1:1001=1",
		"10.0.0.0:1001=1 10.0.0.1:1001=1 10.0.0.2:1001=1",
		"10.0.0.0:1001=1 10.0.0.1:1001=1 10.0.0.2:1001=1 10.0.0.3:1001=1",
	} {
		all, _ := user.all()
		e.put(fmt.Sprintf("/user/10.0.0.%d:1001", len(all)-1), `{}`)
		etcdtest.Eventually(t, want, func() bool {
			weight++
			e.put("/lively/10.0.0.9:1001", fmt.Sprintf(`{"weight":%d}`, weight))
			all, _ := user.all()
			return brief(all[len(all)-1].Instances) == want
		})
	}
	resumes := func() float64 { return s.value(t, "lbproxy_discovery_resumes_total/silence") }
	etcdtest.Eventually(t, "both services to be watched anew", func() bool { return resumes() >= 2 })
	lively.await(fmt.Sprintf("10.0.0.9:1001=%d", weight))
	if got := resumes(); got != 2 {
		t.Errorf("%v watches went on because of silence, want 2: one of each service", got)
	}
	if got := s.relists(t); got != 2 {
		t.Errorf("%v lists, want none but the first of each service", got)
	}
}

// An event that never comes is what only the audit can see.
func TestEtcdAuditFindsALostEvent(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	e.put("/user/10.0.0.1:1001", `{}`)
	var lose, lost atomic.Bool
	proxy := etcdtest.Intercept(t, e.endpoint, func(_ int, r *etcdtest.WatchResponse) bool {
		if len(r.Events) > 0 && lose.CompareAndSwap(true, false) {
			lost.Store(true)
			return false
		}
		return true
	})
	s := newSource(t, etcd.Config{Endpoints: []string{proxy.Endpoint()}}, registry.Limits{
		Progress: 100 * time.Millisecond, Answer: 5 * time.Second, Audit: time.Second,
	})
	f := s.follow(t, "user")
	f.await("10.0.0.1:1001=1")
	audits := func() float64 { return s.value(t, "lbproxy_discovery_audits_total") }
	etcdtest.Eventually(t, "an audit", func() bool { return audits() >= 1 })
	if got := s.value(t, "lbproxy_discovery_diverged_total"); got != 0 {
		t.Errorf("%v audits differ where nothing was lost, want 0", got)
	}
	f.awaitProgress() // or what is lost is what a new watch repeats

	lose.Store(true)
	e.delete("/user/10.0.0.1:1001")
	etcdtest.Eventually(t, "the event to be lost", lost.Load)
	f.await("")
	if got := s.value(t, "lbproxy_discovery_diverged_total"); got != 1 {
		t.Errorf("%v audits differ after an event was lost, want 1", got)
	}
	e.put("/user/10.0.0.2:1001", `{}`)
	f.await("10.0.0.2:1001=1")
}
