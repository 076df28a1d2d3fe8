package proxy_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/traffic"
)

func TestRouting(t *testing.T) {
	routes := []traffic.Route{
		{Method: "/pkg.Greeter/", Service: "greeter", Version: "2.0.0"},
	}
	for _, c := range []struct {
		name    string
		req     traffic.Request
		service string // empty: no route
		version string
	}{
		{"listener and version", traffic.Request{Bound: "hello", Version: "1.0.0"}, "hello", "1.0.0"},
		{"metadata that is no name", traffic.Request{Service: "no such/name", Authority: "shop"}, "", ""},
		{"service route with version", traffic.Request{Method: "/pkg.Greeter/SayHello"}, "greeter", "2.0.0"},
		{"call's version before the route's", traffic.Request{Method: "/pkg.Greeter/SayHello", Version: "3"}, "greeter", "3"},
		{"authority", traffic.Request{Method: "/a.B/C", Authority: "hello"}, "hello", ""},
		{"authority is no name", traffic.Request{Method: "/a.B/C", Authority: "what is this"}, "", ""},
		{"authority is missing", traffic.Request{Method: "/a.B/C"}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.configure(traffic.Rules{Routes: routes})
			if c.req.Header == nil {
				c.req.Header = metadata.MD{}
			}
			c.req.Listener = "127.0.0.1:7070"
			var call proxy.Call
			err := b.Begin(&call, &c.req, time.Now())
			if c.service == "" {
				if err == nil || err.Reason != proxy.NoRoute || err.Code != codes.Unimplemented || !strings.Contains(err.Message, c.req.Method) {
					t.Fatalf("error = %v, want no_route that names the method", err)
				}
				call.Fail(err, time.Now())
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer call.Cancel(time.Now())
			if call.Service() != c.service {
				t.Errorf("service = %q, want %q", call.Service(), c.service)
			}
			// Only an instance of the right version can be picked.
			b.source.publish(c.service, instance("10.0.0.1:1", c.version), instance("10.0.0.2:1", "another"))
			b.connect("10.0.0.1:1", "10.0.0.2:1")
			for range 4 {
				a := attempt(t, &call)
				if got := a.Endpoint().Addr(); c.version != "" && got != "10.0.0.1:1" {
					t.Errorf("picked %s for version %q", got, c.version)
				}
				call.Unpick(a)
			}
		})
	}
}

// A client that asks for reflection takes UNIMPLEMENTED for a server without it, and hides the message.
func TestNoRouteForReflection(t *testing.T) {
	b := newBench(t)
	for method, want := range map[string]codes.Code{
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      codes.NotFound,
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": codes.NotFound,
		"/grpc.reflections.Other/Call":                                   codes.Unimplemented,
		"/pkg.Greeter/SayHello":                                          codes.Unimplemented,
	} {
		for _, service := range []string{"", "no such/name"} {
			var call proxy.Call
			err := b.Begin(&call, &traffic.Request{Method: method, Service: service, Header: metadata.MD{}}, time.Now())
			if err == nil || err.Reason != proxy.NoRoute || err.Code != want {
				t.Errorf("%s, service %q: %v, want no_route of code %s", method, service, err, want)
			}
			call.Fail(err, time.Now())
		}
	}
}

// A message does not grow with what callers say.
func TestNoRouteForLongNames(t *testing.T) {
	b := newBench(t)
	long := strings.Repeat("/", 1<<20)
	for _, r := range []traffic.Request{{Method: long, Authority: long}, {Method: long, Service: long}, {Authority: "x" + long}} {
		r.Header = metadata.MD{}
		var call proxy.Call
		err := b.Begin(&call, &r, time.Now())
		if err == nil || err.Reason != proxy.NoRoute || len(err.Message) > 2000 {
			t.Errorf("the message has %d bytes: %.100s", len(err.Message), err)
		}
		call.Fail(err, time.Now())
	}
}

func TestAServicesVersionHoldsForCallsThatNameNone(t *testing.T) {
	b := newBench(t)
	b.list(map[string]traffic.Service{
		"hello": {Policy: picker.RoundRobin, Version: "1.0.0", WaitTimeout: time.Second},
	})
	b.source.publish("hello", instance("10.0.0.1:1", "1.0.0"), instance("10.0.0.2:1", "2.0.0"))
	b.connect("10.0.0.1:1", "10.0.0.2:1")
	for asked, want := range map[string]string{"": "10.0.0.1:1", "1.0.0": "10.0.0.1:1", "2.0.0": "10.0.0.2:1"} {
		for range 4 {
			call := b.call(t, traffic.Request{Service: "hello", Version: asked})
			if got := attempt(t, call).Endpoint().Addr(); got != want {
				t.Errorf("asked for version %q, picked %s, want %s", asked, got, want)
			}
			call.End(codes.OK, time.Now())
		}
	}
}

// whenLookedAt is metadata that calls a function when a route looks at it.
type whenLookedAt func()

func (f whenLookedAt) Get(string) []string {
	f()
	return []string{"blue"}
}

// A call sees the routes and the services of one configuration, though another takes its place while it is routed.
func TestRoutesAndServicesAreReplacedTogether(t *testing.T) {
	b := newBench(t)
	// In each configuration calls go to one of two services, and the other one's settings are not meant for them.
	leadingTo := func(service, other string) traffic.Rules {
		return traffic.Rules{
			Routes: []traffic.Route{{Headers: map[string]string{"x-team": "blue"}, Service: service}},
			Services: map[string]traffic.Service{
				service: {Policy: picker.RoundRobin, WaitTimeout: time.Second},
				other:   {Policy: picker.RoundRobin, WaitTimeout: time.Hour},
			},
		}
	}
	route := func(r *traffic.Request) *proxy.Call {
		var c proxy.Call
		if err := b.Begin(&c, r, time.Now()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Cancel(time.Now()) })
		return &c
	}
	b.configure(leadingTo("one", "two"))
	during := route(&traffic.Request{Header: whenLookedAt(func() { b.configure(leadingTo("two", "one")) })})
	after := route(&traffic.Request{Header: whenLookedAt(func() {})})
	for want, c := range map[string]*proxy.Call{"one": during, "two": after} {
		if c.Service() != want || c.WaitTimeout() != time.Second {
			t.Errorf("a call to %s waits for %s, want it to go to %s and to wait for 1s", c.Service(), c.WaitTimeout(), want)
		}
	}
}

// The same for a service that its first call has watched: that call is routed by the rules that hold when it is.
func TestRoutesAreReplacedWhileAServiceIsFirstCalled(t *testing.T) {
	b := newBench(t)
	b.configure(traffic.Rules{Routes: []traffic.Route{{Headers: map[string]string{"x-team": "blue"}, Service: "old"}}})
	replace := sync.OnceFunc(func() {
		b.configure(traffic.Rules{Routes: []traffic.Route{{Headers: map[string]string{"x-team": "blue"}, Service: "new"}}})
	})
	var c proxy.Call
	if err := b.Begin(&c, &traffic.Request{Header: whenLookedAt(replace)}, time.Now()); err != nil {
		t.Fatal(err)
	}
	defer c.Cancel(time.Now())
	if c.Service() != "new" {
		t.Errorf("the call goes to %s, want new", c.Service())
	}
}
