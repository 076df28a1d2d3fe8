package proxy_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/traffic"
)

var toHello = traffic.Request{Service: "hello", Method: "/pkg.Greeter/SayHello"}

// reasonOf picks for a call that must fail, and returns why and after how long it did.
func (b *bench) reasonOf(t *testing.T, ctx context.Context) (proxy.Reason, time.Duration) {
	t.Helper()
	c := b.call(t, toHello)
	start := time.Now()
	_, err := c.Pick(ctx)
	var own *proxy.Error
	if !errors.As(err, &own) {
		c.Cancel(time.Now())
		t.Fatalf("error = %v, want one of the proxy's own", err)
	}
	if !strings.Contains(own.Message, `"hello"`) {
		t.Errorf("message does not name the service: %s", own.Message)
	}
	c.Fail(own, time.Now())
	return own.Reason, time.Since(start)
}

func TestWhyACallCannotBeSent(t *testing.T) {
	for _, c := range []struct {
		name      string
		published bool
		instances []discovery.Instance
		want      proxy.Reason
		after     time.Duration
	}{
		{"nothing published", false, nil, proxy.DiscoveryUnavailable, time.Second},
		{"never registered", true, nil, proxy.UnknownService, 0},
		{"all drained, ever", true, []discovery.Instance{{Addr: "10.0.0.1:1"}}, proxy.NoInstances, 0},
		{"not connected", true, []discovery.Instance{instance("10.0.0.1:1", "")}, proxy.NoReadyEndpoint, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.list(map[string]traffic.Service{"hello": {Policy: picker.Random, WaitTimeout: time.Second}})
				if c.published {
					b.source.publish("hello", c.instances...)
				}
				if got, after := b.reasonOf(t, t.Context()); got != c.want || after != c.after {
					t.Errorf("failed with %s after %s, want %s after %s", got, after, c.want, c.after)
				}
				if got := testutil.CollectAndCount(b.reg, "lbproxy_errors_total"); got != 1 {
					t.Errorf("%d reasons counted, want 1", got)
				}
				if s, _ := b.services.ServiceStatus("hello"); s.Recent == nil || s.Recent.ErrorShare != 1 {
					t.Errorf("recent calls %+v, want an error share of 1", s.Recent)
				}
			})
		})
	}
}

// A name that is a caller's invention makes no series, and people see what becomes of its calls all the same.
func TestCallsOfAnUnknownServiceShow(t *testing.T) {
	b := newBench(t)
	b.call(t, toHello).Cancel(time.Now())
	b.source.publish("hello")
	if got, _ := b.reasonOf(t, t.Context()); got != proxy.UnknownService {
		t.Fatalf("failed with %s, want unknown_service", got)
	}
	s, _ := b.services.ServiceStatus("hello")
	if s.Recent == nil || s.Recent.ErrorShare != 0.5 { // the other was cancelled
		t.Errorf("recent calls %+v, want an error share of a half", s.Recent)
	}
}

// How long a call has waited for an instance is not that instance's time.
func TestAnInstanceIsJudgedByItsOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.list(map[string]traffic.Service{"hello": {Policy: picker.Random, WaitTimeout: time.Second}})
		for _, waits := range []time.Duration{800 * time.Millisecond, 0} {
			c := b.call(t, toHello)
			picked := picking(t, c)
			time.Sleep(waits)
			if waits > 0 {
				b.source.publish("hello", instance("10.0.0.1:1", ""))
				b.connect("10.0.0.1:1")
			}
			if p := <-picked; p.err != nil {
				t.Fatal(p.err)
			}
			time.Sleep(20 * time.Millisecond)
			c.End(codes.OK, time.Now())
		}
		s, _ := b.services.ServiceStatus("hello")
		if s.Recent == nil || s.Recent.P99Seconds < 0.7 {
			t.Errorf("the service's recent calls are %+v, want a p99 of 0.82 s", s.Recent)
		}
		if in := s.Instances[0]; in.Recent == nil || in.Recent.P99Seconds > 0.023 {
			t.Errorf("the instance's recent calls are %+v, want a p99 of 0.02 s", in.Recent)
		}
	})
}

func TestCallsAreCountedWhereTheyEnd(t *testing.T) {
	b := newBench(t)
	c := b.call(t, toHello) // its name is not known yet
	b.source.publish("hello", instance("10.0.0.1:1", ""))
	b.connect("10.0.0.1:1")
	c.Cancel(time.Now())
	c = b.call(t, toHello)
	attempt(t, c)
	c.End(codes.NotFound, time.Now())
	want := `
# HELP lbproxy_calls_total Calls ended, by gRPC status code and by who made the status: the backend or the proxy.
# TYPE lbproxy_calls_total counter
lbproxy_calls_total{code="Canceled",origin="proxy",service="_unknown"} 1
lbproxy_calls_total{code="NotFound",origin="backend",service="hello"} 1
# HELP lbproxy_calls_in_flight Calls that have arrived and not ended, waiting ones included.
# TYPE lbproxy_calls_in_flight gauge
lbproxy_calls_in_flight{service="_unknown"} 0
lbproxy_calls_in_flight{service="hello"} 0
# HELP lbproxy_endpoint_calls_total Calls ended that had been sent to an endpoint, by gRPC status code.
# TYPE lbproxy_endpoint_calls_total counter
lbproxy_endpoint_calls_total{code="NotFound",endpoint="10.0.0.1:1",service="hello"} 1
`
	if err := testutil.GatherAndCompare(b.reg, strings.NewReader(want),
		"lbproxy_calls_total", "lbproxy_calls_in_flight", "lbproxy_endpoint_calls_total"); err != nil {
		t.Error(err)
	}
}

func TestACallAllocatesNothing(t *testing.T) {
	b := newBench(t)
	b.call(t, toHello).Cancel(time.Now())
	b.source.publish("hello", instance("10.0.0.1:1", ""))
	b.connect("10.0.0.1:1")
	b.configure(traffic.Rules{Routes: []traffic.Route{
		{Method: "/pkg.Other/", Service: "other"},
		{Method: "/pkg.Greeter/", Headers: map[string]string{"x-team": "blue"}, Service: "hello"},
	}})
	for by, r := range map[string]traffic.Request{
		"metadata":  toHello,
		"listener":  {Bound: "hello"},
		"route":     {Method: "/pkg.Greeter/SayHello", Header: metadata.Pairs("x-team", "blue")},
		"authority": {Method: "/pkg.Third/Call", Authority: "hello:7070"},
	} {
		var c proxy.Call
		once := func() {
			if err := b.Begin(&c, &r, time.Now()); err != nil {
				t.Fatal(err)
			}
			if a, _, err := c.TryPick(time.Now()); a == nil {
				t.Fatal("not picked:", err)
			}
			c.End(codes.OK, time.Now())
		}
		once()
		if n := testing.AllocsPerRun(100, once); n != 0 {
			t.Errorf("routed by %s: %v allocations per call, want 0", by, n)
		}
	}
}

func BenchmarkCall(bb *testing.B) {
	b := newBench(bb)
	b.call(bb, toHello).Cancel(time.Now())
	b.source.publish("hello", instance("10.0.0.1:1", ""))
	b.connect("10.0.0.1:1")
	bb.ReportAllocs()
	var c proxy.Call
	now := time.Now()
	for bb.Loop() {
		b.Begin(&c, &toHello, now)
		c.TryPick(now)
		c.End(codes.OK, now)
	}
}
