package traffic_test

import (
	"errors"
	"testing"

	"github.com/lbproxy/lbproxy/traffic"
)

type header map[string][]string

func (h header) Get(key string) []string { return h[key] }

func TestMatch(t *testing.T) {
	rules := traffic.Rules{Routes: []traffic.Route{
		{Method: "/pkg.Greeter/SayBye", Service: "bye"},
		{Method: "/pkg.Greeter/", Service: "greeter", Version: "2.0.0"},
		{Authority: "shop.internal", Headers: map[string]string{"x-team": "blue"}, Service: "shop-blue"},
		{Authority: "shop.internal", Service: "shop"},
		{Authority: "Depot.Internal.", Service: "depot"},
	}}
	blue := header{"x-team": {"green", "blue"}}
	for _, c := range []struct {
		name    string
		req     traffic.Request
		service string // empty: none
		version string
		rule    int // counted from 1; 0: none
	}{
		{"listener", traffic.Request{Bound: "hello", Service: "other", Method: "/pkg.Greeter/SayHello"}, "hello", "", 0},
		{"listener and version", traffic.Request{Bound: "hello", Version: "1.0.0"}, "hello", "1.0.0", 0},
		{"metadata before routes", traffic.Request{Service: "hello", Method: "/pkg.Greeter/SayHello", Authority: "shop.internal"}, "hello", "", 0},
		{"metadata that is no name", traffic.Request{Service: "no such/name", Authority: "shop"}, "", "", 0},
		{"method route", traffic.Request{Method: "/pkg.Greeter/SayBye"}, "bye", "", 1},
		{"service route with version", traffic.Request{Method: "/pkg.Greeter/SayHello"}, "greeter", "2.0.0", 2},
		{"call's version before the route's", traffic.Request{Method: "/pkg.Greeter/SayHello", Version: "3"}, "greeter", "3", 2},
		{"all conditions hold", traffic.Request{Authority: "Shop.Internal:7070", Header: blue}, "shop-blue", "", 3},
		{"not all conditions hold", traffic.Request{Authority: "shop.internal"}, "shop", "", 4},
		{"authority", traffic.Request{Method: "/a.B/C", Authority: "hello"}, "hello", "", 0},
		{"authority with port", traffic.Request{Method: "/a.B/C", Authority: "hello.world:7070"}, "hello.world", "", 0},
		{"authority with the root's dot", traffic.Request{Method: "/a.B/C", Authority: "hello."}, "hello", "", 0},
		{"authority with the root's dot and a port", traffic.Request{Method: "/a.B/C", Authority: "hello.world.:7070"}, "hello.world", "", 0},
		{"route for an authority with the root's dot", traffic.Request{Authority: "shop.internal.:7070"}, "shop", "", 4},
		{"route with the root's dot", traffic.Request{Authority: "depot.internal"}, "depot", "", 5},
		{"authority is localhost with the root's dot", traffic.Request{Method: "/a.B/C", Authority: "localhost."}, "", "", 0},
		{"authority is IPv4 with the root's dot", traffic.Request{Method: "/a.B/C", Authority: "127.0.0.1.:7070"}, "", "", 0},
		{"authority is the root", traffic.Request{Method: "/a.B/C", Authority: "."}, "", "", 0},
		{"authority is localhost", traffic.Request{Method: "/a.B/C", Authority: "localhost:7070"}, "", "", 0},
		{"authority is IPv4", traffic.Request{Method: "/a.B/C", Authority: "127.0.0.1:7070"}, "", "", 0},
		{"authority is IPv6", traffic.Request{Method: "/a.B/C", Authority: "[::1]:7070"}, "", "", 0},
		{"authority is bare IPv6", traffic.Request{Method: "/a.B/C", Authority: "[::1]"}, "", "", 0},
		{"authority is no name", traffic.Request{Method: "/a.B/C", Authority: "what is this"}, "", "", 0},
		{"authority is missing", traffic.Request{Method: "/a.B/C"}, "", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.req.Header == nil {
				c.req.Header = header{}
			}
			var got traffic.Action
			err := rules.Match(&c.req, &got)
			if c.service == "" {
				if err == nil {
					t.Fatalf("matched %+v, want an error", got)
				}
				return
			}
			want := traffic.Action{Service: c.service, Subset: c.version}
			if c.rule > 0 {
				want.Rule = &rules.Routes[c.rule-1]
			}
			if err != nil || got != want {
				t.Errorf("matched %+v, %v, want %+v", got, err, want)
			}
		})
	}
}

func TestWhyNothingMatches(t *testing.T) {
	for _, c := range []struct {
		name string
		req  traffic.Request
		bad  string // what the call takes for a service's name; empty: it names none
	}{
		{"nothing is named", traffic.Request{Authority: "127.0.0.1:7070"}, ""},
		{"metadata that is no name", traffic.Request{Service: "no such/name"}, "no such/name"},
		{"an authority that is no name", traffic.Request{Authority: "what is this"}, "what is this"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := new(traffic.Rules).Match(&c.req, new(traffic.Action))
			var bad *traffic.NameError
			switch {
			case c.bad == "" && err != traffic.ErrNoMatch:
				t.Errorf("error = %v, want %v", err, traffic.ErrNoMatch)
			case c.bad != "" && (!errors.As(err, &bad) || bad.Name != c.bad):
				t.Errorf("error = %v, want one of the name %q", err, c.bad)
			}
		})
	}
}

func TestServicesThatAreNotListedHaveDefaults(t *testing.T) {
	listed := traffic.Service{Policy: "random"}
	rules := traffic.Rules{Services: map[string]traffic.Service{"hello": listed}}
	if s, ok := rules.Service("hello"); !ok || s != listed {
		t.Errorf("hello is %+v, %v, want %+v, listed", s, ok, listed)
	}
	if s, ok := rules.Service("other"); ok || s != traffic.DefaultService() {
		t.Errorf("other is %+v, %v, want the defaults, not listed", s, ok)
	}
}
