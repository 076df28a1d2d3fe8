package proxy_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/transport"
	"github.com/lbproxy/lbproxy/traffic"
)

func (b *bench) watched() (names []string) {
	for _, s := range b.services.Status() {
		names = append(names, s.Service)
	}
	return names
}

func TestAnIdleServiceIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.list(map[string]traffic.Service{"listed": {Policy: picker.Random}})
		b.call(t, traffic.Request{Service: "idle"}).Cancel(time.Now())
		b.call(t, traffic.Request{Service: "busy"}).Cancel(time.Now())
		long := b.call(t, traffic.Request{Service: "long"})
		b.source.publish("idle", instance("10.0.0.1:1", ""))
		idle := b.source.watch("idle")

		for range 12 {
			time.Sleep(time.Minute)
			b.call(t, traffic.Request{Service: "busy"}).Cancel(time.Now())
		}
		<-idle.ended
		if got, want := b.watched(), []string{"busy", "listed", "long"}; !slices.Equal(got, want) {
			t.Errorf("watched = %v, want %v", got, want)
		}
		if n := testutil.CollectAndCount(b.reg, "lbproxy_endpoint_weight"); n != 0 {
			t.Errorf("%d series of the released service's endpoints, want 0", n)
		}
		long.Cancel(time.Now())

		b.call(t, traffic.Request{Service: "idle"}).Cancel(time.Now()) // comes back at the next call
		b.source.publish("idle", instance("10.0.0.1:1", ""))
		if s, ok := b.services.ServiceStatus("idle"); !ok || len(s.Instances) != 1 {
			t.Errorf("status = %+v, %v, want one instance", s, ok)
		}
	})
}

// What a released service leaves behind ends before its successor begins, whose series are the same.
func TestAServiceComesBackWhileItIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.call(t, traffic.Request{Service: "hello"}).Cancel(time.Now())
		b.source.publish("hello", instance("10.0.0.1:1", ""))
		linger := make(chan struct{})
		b.source.endLate(linger)
		time.Sleep(2 * idleRelease)
		if got := b.watched(); got != nil {
			t.Fatalf("watched = %v, want none", got)
		}

		b.call(t, traffic.Request{Service: "hello"}).Cancel(time.Now())
		published := make(chan struct{})
		go func() {
			b.source.publish("hello", instance("10.0.0.1:1", ""))
			close(published)
		}()
		synctest.Wait()
		close(linger)
		<-published
		synctest.Wait()
		if n := testutil.CollectAndCount(b.reg, "lbproxy_endpoint_weight"); n != 1 {
			t.Errorf("the endpoint has %d series of its weight, want 1", n)
		}
		if n := testutil.CollectAndCount(b.reg, "lbproxy_calls_in_flight"); n != 2 { // and _unknown
			t.Errorf("calls in flight have %d series, want 2", n)
		}
	})
}

func TestOnDemandServicesAreBounded(t *testing.T) {
	b := newBench(t)
	b.list(map[string]traffic.Service{"listed": {Policy: picker.Random}})
	for _, name := range []string{"a", "b", "c"} {
		b.call(t, traffic.Request{Service: name}).Cancel(time.Now())
	}
	var c proxy.Call
	err := b.Begin(&c, &traffic.Request{Service: "d"}, time.Now())
	if err == nil || err.Reason != proxy.Limit || err.Code != codes.ResourceExhausted {
		t.Fatalf("error = %v, want limit", err)
	}
	c.Fail(err, time.Now())
	b.call(t, traffic.Request{Service: "a"}).Cancel(time.Now())
	b.call(t, traffic.Request{Service: "listed"}).Cancel(time.Now())
}

func TestTheConfigurationListsServices(t *testing.T) {
	b := newBench(t)
	b.list(map[string]traffic.Service{"one": {Policy: picker.Random}, "two": {Policy: picker.Random}})
	if got, _ := b.services.Unsynced(); got != "one" {
		t.Errorf("unsynced = %q, want one", got)
	}
	b.source.publish("one")
	if got, _ := b.services.Unsynced(); got != "two" {
		t.Errorf("unsynced = %q, want two", got)
	}
	b.list(map[string]traffic.Service{"two": {Policy: picker.LeastRequest, WaitTimeout: time.Hour}})
	if s, _ := b.services.ServiceStatus("one"); s.Listed || s.Policy != picker.WeightedRoundRobin {
		t.Errorf("one is listed no more, but %+v", s)
	}
	if s, _ := b.services.ServiceStatus("two"); !s.Listed || s.Policy != picker.LeastRequest || s.WaitTimeout != "1h0m0s" {
		t.Errorf("two has a new configuration, but %+v", s)
	}
}

func TestAServiceThatCannotBeWatchedFailsItsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		c := b.call(t, traffic.Request{Service: "broken"})
		defer c.Cancel(time.Now())
		_, err := c.Pick(t.Context())
		if own, _ := err.(*proxy.Error); own == nil || own.Reason != proxy.DiscoveryUnavailable {
			t.Errorf("error = %v, want discovery_unavailable", err)
		}
	})
}

func TestAfterCloseNoServiceIsStarted(t *testing.T) {
	b := newBench(t)
	b.services.Close()
	var c proxy.Call
	if err := b.Begin(&c, &traffic.Request{Service: "late"}, time.Now()); err == nil || err.Reason != proxy.Draining {
		t.Errorf("error = %v, want draining", err)
	} else {
		c.Fail(err, time.Now())
	}
	b.list(map[string]traffic.Service{"late": {Policy: picker.Random}})
	if got := b.watched(); got != nil {
		t.Errorf("watched = %v, want none", got)
	}
}

// An engine that connects to a service's endpoints hears of other settings, and of nothing else.
func TestSettingsOfConnectionsAreLive(t *testing.T) {
	b := newBench(t)
	list := func(s traffic.Service) { b.list(map[string]traffic.Service{"hello": s}) }
	settings := traffic.Service{Policy: picker.RoundRobin, Keepalive: traffic.Keepalive{Time: time.Minute, Timeout: time.Second}}
	list(settings)
	b.source.publish("hello", instance("10.0.0.1:1", ""))
	live := b.lives["10.0.0.1:1"]
	if got := live.Load().Keepalive; got != settings.Keepalive {
		t.Errorf("connections are made with %+v, want %+v", got, settings.Keepalive)
	}

	settings.Policy, settings.Version = picker.Random, "1"
	list(settings)
	if b.reloads != nil {
		t.Error("settings that are not for connections are told to them")
	}
	settings.Keepalive.Time = time.Hour
	list(settings)
	if got := live.Load().Keepalive; got != settings.Keepalive || !slices.Equal(b.reloads, []*transport.Live{live}) {
		t.Errorf("settings are %+v and told %d times, want %+v, once", got, len(b.reloads), settings.Keepalive)
	}
	b.list(nil)
	if got, want := live.Load().Keepalive, traffic.DefaultService().Keepalive; got != want || len(b.reloads) != 2 {
		t.Errorf("not listed any more, settings are %+v and told %d times, want %+v, twice", got, len(b.reloads), want)
	}
}

// An engine may lock out its calls while it reloads, and one of them may just be asking for a service.
func TestServicesAreDemandedDuringAReload(t *testing.T) {
	b := newBench(t)
	b.call(t, traffic.Request{Service: "hello"}).Cancel(time.Now())
	reloaded := false
	b.onReload = func() {
		demanded := make(chan struct{})
		go func() { // ends when the call is routed
			b.call(t, traffic.Request{Service: "other"}).Cancel(time.Now())
			close(demanded)
		}()
		<-demanded
		reloaded = true
	}
	settings := traffic.DefaultService()
	settings.Keepalive.Time = time.Minute
	b.list(map[string]traffic.Service{"hello": settings})
	if !reloaded {
		t.Error("the engine is not told of a change")
	}
}
