package proxy_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
)

func TestRouting(t *testing.T) {
	routes := []proxy.Route{
		{Method: "/pkg.Greeter/SayBye", Service: "bye"},
		{Method: "/pkg.Greeter/", Service: "greeter", Version: "2.0.0"},
		{Authority: "shop.internal", Headers: map[string]string{"x-team": "blue"}, Service: "shop-blue"},
		{Authority: "shop.internal", Service: "shop"},
		{Authority: "Depot.Internal.", Service: "depot"},
	}
	blue := metadata.Pairs("x-team", "green", "x-team", "blue")
	for _, c := range []struct {
		name    string
		req     proxy.Request
		service string // empty: no route
		version string
	}{
		{"listener", proxy.Request{Bound: "hello", Service: "other", Method: "/pkg.Greeter/SayHello"}, "hello", ""},
		{"listener and version", proxy.Request{Bound: "hello", Version: "1.0.0"}, "hello", "1.0.0"},
		{"metadata before routes", proxy.Request{Service: "hello", Method: "/pkg.Greeter/SayHello", Authority: "shop.internal"}, "hello", ""},
		{"metadata that is no name", proxy.Request{Service: "no such/name", Authority: "shop"}, "", ""},
		{"method route", proxy.Request{Method: "/pkg.Greeter/SayBye"}, "bye", ""},
		{"service route with version", proxy.Request{Method: "/pkg.Greeter/SayHello"}, "greeter", "2.0.0"},
		{"call's version before the route's", proxy.Request{Method: "/pkg.Greeter/SayHello", Version: "3"}, "greeter", "3"},
		{"all conditions hold", proxy.Request{Authority: "Shop.Internal:7070", Header: blue}, "shop-blue", ""},
		{"not all conditions hold", proxy.Request{Authority: "shop.internal"}, "shop", ""},
		{"authority", proxy.Request{Method: "/a.B/C", Authority: "hello"}, "hello", ""},
		{"authority with port", proxy.Request{Method: "/a.B/C", Authority: "hello.world:7070"}, "hello.world", ""},
		{"authority with the root's dot", proxy.Request{Method: "/a.B/C", Authority: "hello."}, "hello", ""},
		{"authority with the root's dot and a port", proxy.Request{Method: "/a.B/C", Authority: "hello.world.:7070"}, "hello.world", ""},
		{"route for an authority with the root's dot", proxy.Request{Authority: "shop.internal.:7070"}, "shop", ""},
		{"route with the root's dot", proxy.Request{Authority: "depot.internal"}, "depot", ""},
		{"authority is localhost with the root's dot", proxy.Request{Method: "/a.B/C", Authority: "localhost."}, "", ""},
		{"authority is IPv4 with the root's dot", proxy.Request{Method: "/a.B/C", Authority: "127.0.0.1.:7070"}, "", ""},
		{"authority is the root", proxy.Request{Method: "/a.B/C", Authority: "."}, "", ""},
		{"authority is localhost", proxy.Request{Method: "/a.B/C", Authority: "localhost:7070"}, "", ""},
		{"authority is IPv4", proxy.Request{Method: "/a.B/C", Authority: "127.0.0.1:7070"}, "", ""},
		{"authority is IPv6", proxy.Request{Method: "/a.B/C", Authority: "[::1]:7070"}, "", ""},
		{"authority is bare IPv6", proxy.Request{Method: "/a.B/C", Authority: "[::1]"}, "", ""},
		{"authority is no name", proxy.Request{Method: "/a.B/C", Authority: "what is this"}, "", ""},
		{"authority is missing", proxy.Request{Method: "/a.B/C"}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.SetRoutes(routes)
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
			err := b.Begin(&call, &proxy.Request{Method: method, Service: service, Header: metadata.MD{}}, time.Now())
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
	for _, r := range []proxy.Request{{Method: long, Authority: long}, {Method: long, Service: long}, {Authority: "x" + long}} {
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
	b.services.Configure(map[string]proxy.ServiceConfig{
		"hello": {Policy: picker.RoundRobin, Version: "1.0.0", WaitTimeout: time.Second},
	})
	b.source.publish("hello", instance("10.0.0.1:1", "1.0.0"), instance("10.0.0.2:1", "2.0.0"))
	b.connect("10.0.0.1:1", "10.0.0.2:1")
	for asked, want := range map[string]string{"": "10.0.0.1:1", "1.0.0": "10.0.0.1:1", "2.0.0": "10.0.0.2:1"} {
		for range 4 {
			call := b.call(t, proxy.Request{Service: "hello", Version: asked})
			if got := attempt(t, call).Endpoint().Addr(); got != want {
				t.Errorf("asked for version %q, picked %s, want %s", asked, got, want)
			}
			call.End(codes.OK, time.Now())
		}
	}
}
