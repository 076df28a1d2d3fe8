package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/traffic"
)

// picking picks beside the test.
func picking(t *testing.T, c *proxy.Call) <-chan picked {
	result := make(chan picked)
	go func() {
		a, err := c.Pick(t.Context())
		result <- picked{a, err}
	}()
	return result
}

type picked struct {
	attempt *proxy.Attempt
	err     error
}

// A moment without instances is waited out like one in which none is connected. A service that has been without any for
// longer fails its calls at once.
func TestAMomentWithoutInstances(t *testing.T) {
	version := func(v string, weight int) discovery.Instance {
		return discovery.Instance{Addr: "10.0.0.1:1", Version: v, Weight: weight}
	}
	for _, c := range []struct {
		name    string
		version string // that calls are limited to
		before  []discovery.Instance
		without []discovery.Instance // and this is the moment
	}{
		{"none registered", "", []discovery.Instance{version("", 1)}, nil},
		{"all drained", "", []discovery.Instance{version("", 1)}, []discovery.Instance{version("", 0)}},
		{"none of the version", "1", []discovery.Instance{version("1", 1)}, []discovery.Instance{{Addr: "10.0.0.2:1", Version: "2", Weight: 1}}},
		{"none of the version, nor of others", "1", []discovery.Instance{version("1", 1), {Addr: "10.0.0.2:1", Version: "2", Weight: 1}}, nil},
		{"all of the version drained", "1", []discovery.Instance{version("1", 1)}, []discovery.Instance{version("1", 0), {Addr: "10.0.0.2:1", Version: "2", Weight: 1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const wait = time.Second
				b := newBench(t)
				b.list(map[string]traffic.Service{"hello": {
					Policy: picker.Random, Version: c.version, WaitTimeout: wait,
				}})
				b.source.publish("hello", c.before...)
				b.connect("10.0.0.1:1")
				time.Sleep(time.Minute)

				b.source.publish("hello", c.without...)
				time.Sleep(wait / 2)
				call := b.call(t, toHello)
				picked := picking(t, call)
				synctest.Wait()
				b.source.publish("hello", c.without...) // woken, it waits on
				time.Sleep(wait / 4)
				b.source.publish("hello", c.before...)
				b.connect("10.0.0.1:1")
				if p := <-picked; p.err != nil {
					t.Fatalf("a moment without instances fails the call: %v", p.err)
				}
				call.End(codes.OK, time.Now())

				b.source.publish("hello", c.without...)
				if got, after := b.reasonOf(t, t.Context()); got != proxy.NoInstances || after != wait {
					t.Errorf("failed with %s after %s, want no_instances after %s", got, after, wait)
				}
				b.source.publish("hello", c.without...)
				if got, after := b.reasonOf(t, t.Context()); got != proxy.NoInstances || after != 0 {
					t.Errorf("empty for as long as calls wait, failed with %s after %s, want no_instances at once", got, after)
				}
			})
		})
	}
}

func TestACallWaitsForAnEndpointToConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		c := b.call(t, toHello)
		picked := picking(t, c)
		b.source.publish("hello", instance("10.0.0.1:1", ""))
		time.Sleep(900 * time.Millisecond)
		b.endpoint("10.0.0.1:1").SetState(picker.Failed, errors.New("refused"))
		b.connect("10.0.0.1:1")
		p := <-picked
		if p.err != nil {
			t.Fatal(p.err)
		}
		if got := p.attempt.Endpoint().Addr(); got != "10.0.0.1:1" {
			t.Errorf("picked %s", got)
		}
		c.End(codes.OK, time.Now())
	})
}

func TestWhatEndsAWaitingCall(t *testing.T) {
	for _, c := range []struct {
		name  string
		ctx   func(context.Context) (context.Context, context.CancelFunc)
		check func(error) bool
	}{
		{"its deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Millisecond)
		}, func(err error) bool {
			var own *proxy.Error
			return errors.As(err, &own) && own.Reason == proxy.Deadline && own.Code == codes.DeadlineExceeded
		}},
		{"its caller", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		}, func(err error) bool { return err == context.Canceled }},
		{"the proxy's shutdown", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			cancel(proxy.ErrDraining())
			return ctx, func() {}
		}, func(err error) bool {
			var own *proxy.Error
			return errors.As(err, &own) && own.Reason == proxy.Draining
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				ctx, cancel := c.ctx(t.Context())
				defer cancel()
				call := b.call(t, toHello)
				defer call.Cancel(time.Now())
				if _, err := call.Pick(ctx); !c.check(err) {
					t.Errorf("error = %v", err)
				}
			})
		})
	}
}

// A call that waits says for what, and for how long it has, whichever time runs out.
func TestWhatAWaitingCallSays(t *testing.T) {
	one := instance("10.0.0.1:1", "")
	for _, c := range []struct {
		name             string
		happens          func(*bench)
		deadline, waited string
	}{
		{
			"for the registry", func(*bench) {},
			"waiting for an instance: the registry has not answered yet", "the registry has not answered within 1s",
		},
		{
			"for a connection", func(b *bench) { b.source.publish("hello", one, instance("10.0.0.2:1", "")) },
			"waiting for an instance: none of 2 is connected", "could not connect to any of its 2 instances within 1s",
		},
		{
			"for an instance", func(b *bench) {
				b.source.publish("hello", one)
				b.connect("10.0.0.1:1")
				b.source.publish("hello")
			},
			"waiting for an instance: none is registered now that takes calls", "none is registered now, and none has come within 1s",
		},
	} {
		for timeout, want := range map[time.Duration]string{
			300 * time.Millisecond: "the call's deadline of 300ms ran out after 300ms of " + c.deadline,
			time.Hour:              c.waited,
		} {
			t.Run(fmt.Sprint(c.name, timeout), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t)
					ctx, cancel := context.WithTimeout(t.Context(), timeout)
					defer cancel()
					call := b.call(t, toHello)
					defer call.Cancel(time.Now())
					c.happens(b)
					if _, err := call.Pick(ctx); !strings.Contains(fmt.Sprint(err), want) {
						t.Errorf("error = %v, want %q", err, want)
					}
				})
			})
		}
	}
}
