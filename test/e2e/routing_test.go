package e2e

import (
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/traffic"
)

// Which service a call is for, and which of its instances.
func TestRouting(t *testing.T) {
	routes := func(cfg *configs.Config) {
		cfg.Listeners = append(cfg.Listeners, configs.Listener{Address: "127.0.0.1:0", Service: "bound"})
		cfg.Routes = []traffic.Route{
			{Method: "/shop.Cart/Add", Service: "method"},
			{Method: "/shop.", Service: "package"},
			{Authority: "Old.Name", Service: "authority"},
			{Headers: map[string]string{"tenant": "gold", "region": "eu"}, Service: "header"},
			{Method: "/versioned.", Service: "versions", Version: "2.0.0"},
		}
		v1 := traffic.DefaultService()
		v1.Version = "1.0.0"
		cfg.Services = map[string]traffic.Service{"versions-1": v1}
	}
	const free, bound = 0, 1 // the listeners
	cases := []struct {
		name      string
		listener  int
		authority string
		method    string
		metadata  []string
		want      []string // the instances that may answer, or
		fails     string   // the reason
	}{
		{name: "listener", listener: bound, want: []string{"bound"}},
		{name: "listener before metadata", listener: bound, metadata: []string{"lbproxy-service", "named"}, want: []string{"bound"}},
		{name: "listener before route", listener: bound, method: "/shop.Cart/Add", want: []string{"bound"}},
		{name: "listener before authority", listener: bound, authority: "named", want: []string{"bound"}},
		{name: "metadata", metadata: []string{"lbproxy-service", "named"}, want: []string{"named"}},
		{name: "metadata before route", metadata: []string{"lbproxy-service", "named"}, method: "/shop.Cart/Add", want: []string{"named"}},
		{name: "metadata before authority", metadata: []string{"lbproxy-service", "named"}, authority: "bound", want: []string{"named"}},
		{name: "metadata that is no name", metadata: []string{"lbproxy-service", "a/b"}, authority: "named", fails: "no_route"},
		{name: "route by method", method: "/shop.Cart/Add", want: []string{"method"}},
		{name: "route by package", method: "/shop.Cart/Remove", want: []string{"package"}},
		{name: "route by authority", authority: "old.name", want: []string{"authority"}},
		{name: "route by authority with port", authority: "OLD.NAME:443", want: []string{"authority"}},
		{name: "route by headers", metadata: []string{"tenant", "gold", "region", "eu"}, want: []string{"header"}},
		{name: "route by one of several values", metadata: []string{"tenant", "iron", "tenant", "gold", "region", "eu"}, want: []string{"header"}},
		{name: "route whose conditions hold in part", metadata: []string{"tenant", "gold"}, fails: "no_route"},
		{name: "the first route of several", authority: "old.name", method: "/shop.Cart/Add", want: []string{"method"}},
		{name: "route before authority", authority: "named", method: "/shop.Cart/Add", want: []string{"method"}},
		{name: "authority", authority: "named", want: []string{"named"}},
		{name: "authority with port", authority: "named:8080", want: []string{"named"}},
		{name: "authority that is no name", authority: "a,b", fails: "no_route"},
		{name: "authority that is an address", authority: "10.1.2.3:80", fails: "no_route"},
		{name: "authority that is an IPv6 address", authority: "[::1]:80", fails: "no_route"},
		{name: "authority that is localhost", authority: "LocalHost:7070", fails: "no_route"},
		{name: "authority by default", fails: "no_route"},

		{name: "any version", authority: "versions", want: []string{"1.0.0", "1.0.0 again", "2.0.0", "unversioned"}},
		{name: "version by metadata", authority: "versions", metadata: []string{"lbproxy-version", "1.0.0"}, want: []string{"1.0.0", "1.0.0 again"}},
		{name: "version by route", authority: "versions", method: "/versioned.X/Y", want: []string{"2.0.0"}},
		{name: "version by metadata before route", method: "/versioned.X/Y", metadata: []string{"lbproxy-version", "1.0.0"}, want: []string{"1.0.0", "1.0.0 again"}},
		{name: "version that no instance has", authority: "versions", metadata: []string{"lbproxy-version", "3.0.0"}, fails: "no_instances"},
		{name: "version by configuration", authority: "versions-1", want: []string{"1 by configuration"}},
		{name: "version by metadata before configuration", authority: "versions-1", metadata: []string{"lbproxy-version", "2.0.0"}, want: []string{"2 by metadata"}},
	}
	onEveryEngine(t, func(t *testing.T, w *world) {
		names := map[string]string{} // by address
		start := func(name, service, version string) {
			names[w.startInstance(service, version, 1).addr] = name
		}
		for _, service := range []string{"bound", "named", "method", "package", "authority", "header"} {
			start(service, service, "")
		}
		start("1.0.0", "versions", "1.0.0")
		start("1.0.0 again", "versions", "1.0.0")
		start("2.0.0", "versions", "2.0.0")
		start("unversioned", "versions", "")
		start("1 by configuration", "versions-1", "1.0.0")
		start("2 by metadata", "versions-1", "2.0.0")

		p := w.startProxy(routes)
		p.dialAll(t, "versions", 4)
		p.dialAll(t, "versions-1", 2)
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				cc := dial(t, "passthrough:///"+p.Addrs()[c.listener], grpc.WithAuthority(c.authority))
				ctx := metadata.NewOutgoingContext(within(t), metadata.Pairs(c.metadata...))
				method := c.method
				if method == "" {
					method = "/any.Service/Method"
				}
				if c.fails != "" {
					_, err := whoAnswers(ctx, cc, method)
					if got := reasonOf(err); got != c.fails {
						t.Errorf("the call ends by %v, reason %q, want %q", err, got, c.fails)
					}
					return
				}
				got := map[string]bool{}
				for range 2 * len(c.want) { // two rotations
					addr, err := whoAnswers(ctx, cc, method)
					if err != nil {
						t.Fatal(err)
					}
					got[names[addr]] = true
				}
				if diff := cmp.Diff(slices.Sorted(maps.Keys(got)), c.want); diff != "" {
					t.Errorf("who answers (-got +want):\n%s", diff)
				}
			})
		}
	})
}

// dialAll makes a first call, so that the proxy watches the service, and waits until it is connected to all n instances.
func (p *lbproxy) dialAll(t *testing.T, service string, n int) {
	t.Helper()
	if _, err := whoAnswers(within(t), p.dial(service), "/any.Service/Method"); err != nil {
		t.Fatal(err)
	}
	p.awaitReady(service, n)
}

// whoAnswers makes a call of any method and returns who answers it.
func whoAnswers(ctx context.Context, cc grpc.ClientConnInterface, method string) (addr string, err error) {
	c, err := converse(ctx, cc, method)
	if err != nil {
		return "", err
	}
	if addr, err = c.ask(); err != nil {
		return "", err
	}
	return addr, c.end()
}
