package proxy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/retry"
	"github.com/lbproxy/lbproxy/traffic"
)

var refused = retry.Failure{Replayable: true}

// newAttempts returns a bench whose service has instances at addrs, which are picked at random.
func newAttempts(t *testing.T, addrs ...string) *bench {
	b := newBench(t)
	b.list(map[string]traffic.Service{"hello": {Policy: picker.Random, WaitTimeout: time.Second}})
	var instances []discovery.Instance
	for _, addr := range addrs {
		instances = append(instances, instance(addr, ""))
	}
	b.source.publish("hello", instances...)
	b.connect(addrs...)
	return b
}

func TestEachAttemptIsMadeElsewhere(t *testing.T) {
	b := newAttempts(t, "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1")
	for range 20 {
		c := b.call(t, toHello)
		made := map[string]bool{}
		for n := 1; ; n++ {
			a := attempt(t, c)
			made[a.Endpoint().Addr()] = true
			if len(made) != n {
				t.Fatalf("attempt %d is made where one was made before", n)
			}
			if c.Failed(a, refused) == retry.Fail {
				break
			}
		}
		if len(made) != retry.MaxAttempts {
			t.Fatalf("%d attempts were made, want %d", len(made), retry.MaxAttempts)
		}
		c.End(codes.Unavailable, time.Now())
	}
	want := `
# HELP lbproxy_call_retries_total How often calls were sent to another endpoint, because the first provably did not begin them.
# TYPE lbproxy_call_retries_total counter
lbproxy_call_retries_total{service="_unknown"} 0
lbproxy_call_retries_total{service="hello"} 40
`
	if err := testutil.GatherAndCompare(b.reg, strings.NewReader(want), "lbproxy_call_retries_total"); err != nil {
		t.Error(err)
	}
	s, _ := b.services.ServiceStatus("hello")
	for _, in := range s.Instances {
		if in.InFlight != 0 {
			t.Errorf("%s has %d calls in flight, which have all ended", in.Addr, in.InFlight)
		}
	}
}

func TestAnAttemptWhereAllHaveFailed(t *testing.T) {
	b := newAttempts(t, "10.0.0.1:1")
	c := b.call(t, toHello)
	defer c.Cancel(time.Now())
	for range retry.MaxAttempts - 1 {
		if c.Failed(attempt(t, c), refused) != retry.Retry {
			t.Fatal("the only endpoint is not tried again")
		}
	}
	attempt(t, c)
}

func TestAnAttemptTakenBackIsNone(t *testing.T) {
	b := newAttempts(t, "10.0.0.1:1")
	c := b.call(t, toHello)
	defer c.Cancel(time.Now())
	for range 2 * retry.MaxAttempts {
		c.Unpick(attempt(t, c))
	}
	if c.Failed(attempt(t, c), refused) != retry.Retry {
		t.Error("a call that no endpoint has had is not tried again")
	}
}

func TestAnAttemptHasATimeOfItsOwn(t *testing.T) {
	b := newAttempts(t, "10.0.0.1:1")
	var c proxy.Call
	came := time.Now()
	r := toHello
	if err := b.Begin(&c, &r, came); err != nil {
		t.Fatal(err)
	}
	defer c.Cancel(came)
	for range 2 {
		later := came.Add(time.Second)
		a, _, err := c.TryPick(later)
		if err != nil {
			t.Fatal(err)
		}
		if !a.Start().Equal(later) || !c.Start().Equal(came) {
			t.Errorf("the attempt started at %s, the call at %s", a.Start(), c.Start())
		}
		c.Failed(a, refused)
	}
}
