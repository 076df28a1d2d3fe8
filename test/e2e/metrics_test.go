package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy"
)

// Of three instances one is slow, and one fails at once: both can be told from the third.
func TestTheInstanceThatIsWorseStandsOut(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		good := w.startInstance("hello", "", 1)
		g := newGate()
		slow := w.startInstance("hello", "", 1, onHello(g.hold))
		bad := w.startInstance("hello", "", 1, onHello(func(context.Context) error {
			return status.Error(codes.Internal, "database pool exhausted")
		}))
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 3)
		cc := p.dial("hello")
		start, ctx, ended := time.Now(), within(t), make(chan struct{})
		held := 0
		for range 12 { // one after the other, but for those that are held
			go func() { // ends with the call
				_, _ = sayHello(ctx, cc) // a third of them fails
				ended <- struct{}{}
			}()
			select {
			case <-ended:
			case <-g.arrived:
				held++
			}
		}
		// However busy the machine, the others are quicker than this.
		slowly := 3*time.Since(start) + 100*time.Millisecond
		await(t, "slow answers", func() bool { return time.Since(start) > slowly })
		close(g.open)
		for range held {
			<-ended
		}
		var s proxy.ServiceStatus
		recent := map[string]*metrics.Recent{}
		await(t, "the last of the calls on /services", func() bool {
			s = proxy.ServiceStatus{}
			p.mustGet("/services/hello", &s)
			for _, in := range s.Instances {
				recent[in.Addr] = in.Recent
			}
			return s.InFlight == 0 && recent[good.addr] != nil && recent[slow.addr] != nil && recent[bad.addr] != nil
		})
		if r := recent[good.addr]; r.ErrorShare != 0 || r.P99Seconds >= recent[slow.addr].P99Seconds {
			t.Errorf("the good one: %+v", r)
		}
		if r := recent[slow.addr]; r.ErrorShare != 0 || r.P99Seconds < 0.08 {
			t.Errorf("the slow one: %+v, want a p99 of 0.1 s", r)
		}
		if r := recent[bad.addr]; r.ErrorShare != 1 || r.P99Seconds >= recent[slow.addr].P99Seconds {
			t.Errorf("the one that fails: %+v, want an error share of 1", r)
		}
		if share := s.Recent.ErrorShare; share < 0.3 || share > 0.4 {
			t.Errorf("the service: %+v, want an error share of a third", s.Recent)
		}
		m := p.metrics()
		seconds := func(in *instance) float64 {
			return m[fmt.Sprintf(`lbproxy_endpoint_call_seconds_total{endpoint=%q,service="hello"}`, in.addr)]
		}
		if seconds(slow) < 0.4 || seconds(good) >= seconds(slow) || seconds(bad) >= seconds(slow) {
			t.Errorf("seconds of four calls each: slow %v, good %v, bad %v", seconds(slow), seconds(good), seconds(bad))
		}
	})
}

// Every series is there and right after calls of which all is known.
func TestMetrics(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		in, drained := w.startInstance("hello", "", 7), w.startInstance("hello", "", 0)
		etcd := etcdtest.Client(t, w.etcd)
		if _, err := etcd.Put(t.Context(), w.root+"/hello/127.0.0.1:1", "rubbish"); err != nil {
			t.Fatal(err)
		}
		p := w.startProxy(listed("hello"))
		p.awaitReady("hello", 2)
		cc := p.dial("hello")
		greet(t, cc, 3)
		if _, err := sayHello(within(t), p.dial("")); err == nil {
			t.Error("a call without a service succeeds")
		}
		stream := p.converse(within(t), "hello")
		p.mustAsk(stream)

		want := map[string]float64{
			`lbproxy_calls_total{code="OK",origin="backend",service="hello"}`:                           3,
			`lbproxy_calls_total{code="Unimplemented",origin="proxy",service="_unknown"}`:               1,
			`lbproxy_calls_in_flight{service="hello"}`:                                                  1,
			`lbproxy_calls_in_flight{service="_unknown"}`:                                               0,
			`lbproxy_call_duration_seconds_count{service="hello"}`:                                      3,
			fmt.Sprintf(`lbproxy_endpoint_calls_total{code="OK",endpoint=%q,service="hello"}`, in.addr): 3,
			fmt.Sprintf(`lbproxy_endpoint_in_flight{endpoint=%q,service="hello"}`, in.addr):             1,
			fmt.Sprintf(`lbproxy_endpoint_weight{endpoint=%q,service="hello"}`, in.addr):                7,
			fmt.Sprintf(`lbproxy_endpoint_weight{endpoint=%q,service="hello"}`, drained.addr):           0,
			fmt.Sprintf(`lbproxy_endpoint_ready{endpoint=%q,service="hello"}`, in.addr):                 1,
			fmt.Sprintf(`lbproxy_endpoint_in_flight{endpoint=%q,service="hello"}`, drained.addr):        0,
			`lbproxy_errors_total{reason="no_route",service="_unknown"}`:                                1,
			`lbproxy_discovery_instances{service="hello"}`:                                              2,
			`lbproxy_discovery_relists_total{cause="start"}`:                                            1,
			`lbproxy_discovery_poisoned_total`:                                                          1,
		}
		got := map[string]float64{}
		await(t, "end of the calls in the metrics", func() bool {
			m := p.metrics()
			clear(got)
			for series := range want {
				if value, ok := m[series]; ok {
					got[series] = value
				}
			}
			return got[`lbproxy_calls_total{code="OK",origin="backend",service="hello"}`] == 3
		})
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
		m := p.metrics()
		if got, least := m["lbproxy_discovery_revision"], in.Status().ModRevision; got < float64(least) {
			t.Errorf("revision = %v, want %d at least", got, least)
		}
		if got := m["lbproxy_discovery_staleness_seconds"]; got <= 0 || got > patience.Seconds() {
			t.Errorf("staleness = %v", got)
		}
		if took := m[`lbproxy_call_duration_seconds_sum{service="hello"}`]; took <= 0 || took > 3*patience.Seconds() {
			t.Errorf("three calls took %v s", took)
		}
		build := false
		for series, value := range m {
			build = build || strings.HasPrefix(series, "lbproxy_build_info{") && strings.Contains(series, `version="e2e"`) && value == 1
		}
		if !build {
			t.Error("no lbproxy_build_info")
		}
	})
}

// The first call of a service on demand is one of that service, whose name turns out to be known.
func TestFirstCallIsCountedForItsService(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		w.startInstance("hello", "", 1)
		p := w.startProxy()
		stream := p.converse(within(t), "hello")
		p.mustAsk(stream)
		inFlight := func() (hello, unknown float64) {
			m := p.metrics()
			return m[`lbproxy_calls_in_flight{service="hello"}`], m[fmt.Sprintf(`lbproxy_calls_in_flight{service=%q}`, proxy.UnknownServiceLabel)]
		}
		if hello, unknown := inFlight(); hello != 1 || unknown != 0 {
			t.Errorf("in flight: %v for hello, %v for unknown services; want 1 and 0", hello, unknown)
		}
		if err := stream.end(); err != nil {
			t.Fatal(err)
		}
		ok := `lbproxy_calls_total{code="OK",origin="backend",service="hello"}`
		await(t, ok, func() bool { return p.metrics()[ok] == 1 })
		if hello, unknown := inFlight(); hello != 0 || unknown != 0 {
			t.Errorf("in flight at the end: %v for hello, %v for unknown services", hello, unknown)
		}
	})
}

// A name that a caller makes up is in no series, however many there are.
func TestInventedServicesMakeNoSeries(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		p := w.startProxy()
		for i := range 5 {
			if _, err := sayHello(within(t), p.dial(fmt.Sprint("invented-", i))); reasonOf(err) != string(proxy.UnknownService) {
				t.Errorf("the call ends by %v", err)
			}
		}
		all := fmt.Sprintf(`lbproxy_calls_total{code="Unavailable",origin="proxy",service=%q}`, proxy.UnknownServiceLabel)
		await(t, "5 calls in "+all, func() bool { return p.metrics()[all] == 5 })
		for series := range p.metrics() {
			if strings.Contains(series, "invented") {
				t.Errorf("series %s", series)
			}
		}
	})
}

// The series of an endpoint end with it, those of a service when it is watched no more.
func TestSeriesVanish(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		in := w.startInstance("hello", "", 1)
		p := w.startProxy(func(cfg *configs.Config) { cfg.Discovery.IdleRelease = time.Second })
		cc := p.dial("hello")
		greet(t, cc, 3)
		with := func(part string) (n int) {
			for series := range p.metrics() {
				if strings.Contains(series, part) {
					n++
				}
			}
			return n
		}
		await(t, "series of the endpoint", func() bool { return with(in.addr) == 6 }) // calls, their seconds, in flight, weight, ready, waiting
		in.deregister()
		await(t, "end of the endpoint's series", func() bool { return with(in.addr) == 0 })
		await(t, "end of the service's series", func() bool { return with(`service="hello"`) == 0 })
		if code, _ := p.admin("/services/hello"); code != http.StatusNotFound {
			t.Errorf("/services/hello = %d once it is released", code)
		}

		again := w.startInstance("hello", "", 1)
		greet(t, cc, 1)
		await(t, "series of the next endpoint", func() bool { return with(again.addr) == 6 })
	})
}
