package registry_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registry"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

// followMany follows services of one instance each.
func (s *source) followMany(t *testing.T, e store, n int) (all []*follower) {
	t.Helper()
	for i := range n {
		service := fmt.Sprintf("service%d", i)
		e.put("/"+service+"/10.0.0.1:1001", `{}`)
		all = append(all, s.follow(t, service))
	}
	for _, f := range all {
		f.await("10.0.0.1:1001=1")
	}
	return all
}

// All hosts lose etcd at once and have it back at once. What they do then must not be what keeps it down: where nothing
// has changed, each asks etcd once where it is, and lists nothing.
func TestEtcdReturnsToAQuietRegistry(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	e := store{etcdtest.Client(t, server.Endpoint()), t, server.Endpoint()}
	proxy := etcdtest.Intercept(t, server.Endpoint(), etcdtest.Everything)
	forwarder := etcdtest.Forward(t, proxy.Endpoint())
	s := newSource(t, etcd.Config{Endpoints: []string{forwarder.Endpoint()}}, registry.Limits{
		Progress: 300 * time.Millisecond, Answer: 10 * time.Second, ResumedAudit: time.Millisecond,
	})
	const services = 20
	all := s.followMany(t, e, services)
	for _, f := range all {
		f.awaitProgress()
	}
	before := len(proxy.Ranges())
	forwarder.Cut()
	s.awaitUnconfirmed(t, services)
	server.Stop()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	forwarder.Resume()
	s.awaitUnconfirmed(t, 0)
	for _, f := range all {
		f.wantSnapshots("10.0.0.1:1001=1")
	}
	e.put("/service7/10.0.0.1:1001", `{"weight":7}`)
	all[7].await("10.0.0.1:1001=7")
	if reads := proxy.Ranges()[before:]; len(reads) > 1 {
		t.Errorf("reads after etcd's return are %v, want one for the process", reads)
	}
	s.wantLogged(t, map[string]int{lostLine: 1, confirmedLine: 1})
	if line := s.logs.FilterMessage(confirmedLine).All()[0].ContextMap(); line["services"] != int64(services) {
		t.Errorf("the log says of %v services that they are confirmed again, want %d", line["services"], services)
	}
}

// What happened meanwhile is told by the watches that go on, and what an audit says of it is asked for soon, without
// data.
func TestEtcdReturnsToAChangedRegistry(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	proxy := etcdtest.Intercept(t, e.endpoint, etcdtest.Everything)
	forwarder := etcdtest.Forward(t, proxy.Endpoint())
	s := newSource(t, etcd.Config{Endpoints: []string{forwarder.Endpoint()}}, registry.Limits{
		Progress: 300 * time.Millisecond, Answer: 10 * time.Second, ResumedAudit: time.Second,
	})
	all := s.followMany(t, e, 5)
	for _, f := range all {
		f.awaitProgress()
	}
	before := len(proxy.Ranges())
	forwarder.Cut()
	s.awaitUnconfirmed(t, 5)
	e.put("/service1/10.0.0.2:1001", `{}`)
	e.delete("/service2/10.0.0.1:1001")
	forwarder.Resume()
	all[1].await("10.0.0.1:1001=1 10.0.0.2:1001=1")
	all[2].await("")
	etcdtest.Eventually(t, "an audit of each service", func() bool { return s.value(t, "lbproxy_discovery_audits_total") >= 5 })
	for _, r := range proxy.Ranges()[before:] {
		if !r.KeysOnly && !r.CountOnly {
			t.Errorf("data is read anew: %v", r)
		}
	}
	if got := s.value(t, "lbproxy_discovery_diverged_total"); got != 0 {
		t.Errorf("%v audits found a difference", got)
	}
}

// A process that starts with many services does not ask for all of them at once.
func TestEtcdListsFewServicesAtATime(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	const services, most = 30, 8
	proxy := etcdtest.Intercept(t, e.endpoint, etcdtest.Everything)
	var now, peak atomic.Int64
	full := make(chan struct{})
	open := sync.OnceFunc(func() { close(full) })
	proxy.Hold(func(ctx context.Context, _ *etcdtest.RangeRequest) {
		n := now.Add(1)
		defer now.Add(-1)
		for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
		}
		if n == most {
			time.AfterFunc(200*time.Millisecond, open) // time for others to come, if they may
		}
		select {
		case <-full:
		case <-ctx.Done():
		}
	})
	s := newSource(t, etcd.Config{Endpoints: []string{proxy.Endpoint()}}, registry.Limits{})
	s.followMany(t, e, services)
	if got := peak.Load(); got != most {
		t.Errorf("%d lists at a time, want %d", got, most)
	}
}

// Etcd is too slow for a while: the time that a page is given doubles, and pages that came need not come again.
func TestEtcdListOutlastsASlowEtcd(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	var want []string
	for i := range 9 {
		e.put(fmt.Sprintf("/user/10.0.0.%d:1001", i), `{}`)
		want = append(want, fmt.Sprintf("10.0.0.%d:1001=1", i))
	}
	proxy := etcdtest.Intercept(t, e.endpoint, etcdtest.Everything)
	const first = 400 * time.Millisecond
	var mu sync.Mutex
	var pages []string
	var times []time.Duration
	proxy.Hold(func(ctx context.Context, r *etcdtest.RangeRequest) {
		mu.Lock()
		pages = append(pages, fmt.Sprintf("%s@%d", r.Key, r.Revision))
		deadline, _ := ctx.Deadline()
		times = append(times, time.Until(deadline))
		slow := len(pages) >= 2 && len(pages) <= 4
		mu.Unlock()
		if slow {
			<-ctx.Done()
		}
	})
	s := newSource(t, etcd.Config{
		Endpoints: []string{proxy.Endpoint()}, DialTimeout: first,
	}, registry.Limits{Page: 3})
	s.follow(t, "user").await(strings.Join(want, " "))
	mu.Lock()
	defer mu.Unlock()
	revision := 10
	second := fmt.Sprintf("/user/10.0.0.2:1001\x00@%d", revision)
	if want := []string{
		"/user/@0", second, second, second, second, fmt.Sprintf("/user/10.0.0.5:1001\x00@%d", revision),
	}; !slices.Equal(pages, want) {
		t.Errorf("pages read are %q, want %q", pages, want)
	}
	for i, want := range []time.Duration{first, first, 2 * first, 4 * first, 8 * first, first} {
		if i < len(times) && (times[i] > want || times[i] <= want/2) { // less the time for the way there
			t.Errorf("they were given %v, want %v for number %d", times, want, i)
		}
	}
}

// Etcd's grpc-proxy answers no requests for progress. Quiet watches behind it are well, and that is told by reads that
// bring no data, and soon by few of them.
func TestEtcdBehindGRPCProxy(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	counting := etcdtest.Intercept(t, etcdtest.GRPCProxy(t, e.endpoint), etcdtest.Everything)
	s := newSource(t, etcd.Config{Endpoints: []string{counting.Endpoint()}}, registry.Limits{
		Progress: 200 * time.Millisecond, Answer: 500 * time.Millisecond, MuteAsk: 10 * time.Second,
	})
	const services = 5
	all := s.followMany(t, e, services)
	etcdtest.Eventually(t, "a note", func() bool { return strings.Contains(s.Standing("service0").Note, "grpc-proxy") })

	before := len(counting.Ranges())
	for i := range 4 { // the registry moves on, so that one look at where it is does not do
		confirmed := s.Standing("service0").Confirmed
		e.put("/elsewhere", fmt.Sprint(i))
		etcdtest.Eventually(t, "the state confirmed", func() bool { return s.Standing("service0").Confirmed.After(confirmed.Add(time.Second)) })
	}
	for _, r := range counting.Ranges()[before:] {
		if !r.KeysOnly && !r.CountOnly {
			t.Errorf("data is read anew: %v", r)
		}
	}
	e.put("/service3/10.0.0.1:1001", `{"weight":3}`)
	all[3].await("10.0.0.1:1001=3")
	if got := s.relists(t); got != services {
		t.Errorf("%v lists, want none but the first of each service", got)
	}
	if got := counting.Streams(); got != 1 {
		t.Errorf("%d streams, want 1", got)
	}
	if got := s.logs.FilterLevelExact(zap.WarnLevel).FilterMessageSnippet("grpc-proxy").Len(); got != 1 {
		t.Errorf("the log says %d times that progress is not answered, want once", got)
	}
	s.wantLogged(t, map[string]int{lostLine: 0})
}

// A stream that brings news late is no dead stream: giving it up would not help an etcd that is overloaded.
func TestEtcdLaggingStreamIsKept(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	proxy := etcdtest.Intercept(t, e.endpoint, func(_ int, r *etcdtest.WatchResponse) bool {
		return r.Created || len(r.Events) > 0
	})
	s := newSource(t, etcd.Config{Endpoints: []string{proxy.Endpoint()}}, impatient)
	f := s.follow(t, "user")
	f.await("")
	for weight := range 40 {
		e.put("/user/10.0.0.1:1001", fmt.Sprintf(`{"weight":%d}`, weight))
		f.await(fmt.Sprintf("10.0.0.1:1001=%d", weight))
		time.Sleep(50 * time.Millisecond) // the pace of what happens, longer in all than silence is let last
	}
	if got := proxy.Streams(); got != 1 {
		t.Errorf("%d streams, want 1", got)
	}
	if got := s.relists(t); got != 1 {
		t.Errorf("%v lists, want 1", got)
	}
}

// Etcd takes longer to say where it is than an answer stays fresh for others who want to know.
func TestEtcdAnswersSlowly(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	proxy := etcdtest.Intercept(t, e.endpoint, func(_ int, r *etcdtest.WatchResponse) bool { return r.Created || len(r.Events) > 0 })
	s := newSource(t, etcd.Config{Endpoints: []string{proxy.Endpoint()}}, impatient)
	s.followMany(t, e, 3)
	proxy.Hold(func(context.Context, *etcdtest.RangeRequest) { time.Sleep(impatient.Answer / 2) })
	start := time.Now()
	for _, service := range []string{"service0", "service1", "service2"} {
		etcdtest.Eventually(t, "the state confirmed", func() bool { return s.Standing(service).Confirmed.After(start.Add(2 * impatient.Answer)) })
	}
}

// Etcd answers nothing that is asked, and its watches are well: what they tell does not wait for answers.
func TestEtcdWatchesAreHeardWhileReadsHang(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	proxy := etcdtest.Intercept(t, e.endpoint, func(_ int, r *etcdtest.WatchResponse) bool { return r.Created || len(r.Events) > 0 })
	limits := impatient
	limits.Audit = 100 * time.Millisecond
	s := newSource(t, etcd.Config{Endpoints: []string{proxy.Endpoint()}, DialTimeout: 2 * patience}, limits)
	f := s.follow(t, "user")
	f.await("")
	hangs := make(chan struct{})
	hang := sync.OnceFunc(func() { close(hangs) })
	proxy.Hold(func(ctx context.Context, _ *etcdtest.RangeRequest) {
		hang()
		<-ctx.Done()
	})
	<-hangs
	e.put("/user/10.0.0.1:1001", `{}`)
	f.await("10.0.0.1:1001=1")
}

// Etcd comes back with another history: what is known must go, however far that history has got.
func TestEtcdRestoredFromABackup(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		writes int // to the restored one, before it is seen
	}{{"behind what was known", 0}, {"beyond what was known", 20}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			before, after := newStore(t), newStore(t)
			forwarder := etcdtest.Forward(t, before.endpoint)
			for i := range 5 {
				before.put(fmt.Sprintf("/user/10.0.0.%d:1001", i), `{}`)
			}
			after.put("/user/10.0.0.9:1001", `{}`)
			s := newSource(t, etcd.Config{Endpoints: []string{forwarder.Endpoint()}}, registry.Limits{Spread: time.Millisecond})
			f := s.follow(t, "user")
			f.await("10.0.0.0:1001=1 10.0.0.1:1001=1 10.0.0.2:1001=1 10.0.0.3:1001=1 10.0.0.4:1001=1")
			defer func() {
				for _, l := range s.logs.All() {
					t.Logf("%s %s %v", l.Time.Format("05.000"), l.Message, l.ContextMap())
				}
				t.Log(s.Standing("user"))
			}()
			forwarder.Cut()
			for i := range tc.writes {
				after.put("/elsewhere", fmt.Sprint(i))
			}
			forwarder.Redirect(after.endpoint)
			forwarder.Resume()
			f.await("10.0.0.9:1001=1")
			after.put("/user/10.0.0.8:1001", `{}`)
			f.await("10.0.0.8:1001=1 10.0.0.9:1001=1")
			if got := s.value(t, "lbproxy_discovery_relists_total/restored"); got != 1 {
				t.Errorf("%v lists because etcd was restored, want 1", got)
			}
		})
	}
}

// Reads work and watches do not: what is known must follow the registry all the same.
func TestEtcdWatchesTellNothing(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	proxy := etcdtest.Intercept(t, e.endpoint, func(int, *etcdtest.WatchResponse) bool { return false })
	s := newSource(t, etcd.Config{Endpoints: []string{proxy.Endpoint()}}, impatient)
	f := s.follow(t, "user")
	f.await("")
	for _, want := range []string{"10.0.0.1:1001=1", "10.0.0.1:1001=2"} {
		e.put("/user/10.0.0.1:1001", fmt.Sprintf(`{"weight":%s}`, want[len(want)-1:]))
		f.await(want)
	}
}
