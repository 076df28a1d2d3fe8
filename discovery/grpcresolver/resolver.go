// Package grpcresolver lets a Go client that balances in-process, without a proxy, find its services by a
// [discovery.Source]: pass [New] to [google.golang.org/grpc.WithResolvers] and dial etcd:///hello, or
// etcd://1.0.0/hello for the instances of one version.
//
// It decides what of a snapshot a client is offered: every instance that is not drained, with its weight, or
// an error that names the service when there is none. It leaves to the client's balancing policy how to
// choose among them. round_robin takes no notice of weights; a policy that does reads them with [Weight].
package grpcresolver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/experimental/balancer/weight"
	"google.golang.org/grpc/resolver"

	"github.com/lbproxy/lbproxy/discovery"
)

// Scheme is that of the targets.
const Scheme = "etcd"

// firstSnapshotWait is for how long calls wait for a source that has yet to reach its registry before they
// are failed with that reason. They succeed as soon as it has reached it.
const firstSnapshotWait = 5 * time.Second

// Weight is the registered weight of an endpoint that this package's resolver offered, 1 to
// [discovery.MaxWeight], and 0 for any other endpoint. It is the attribute that grpc-go's own weight-aware
// policies go by.
func Weight(e resolver.Endpoint) int { return int(weight.FromEndpoint(e).Weight) }

// New returns a builder of resolvers on source. It may be used for many ClientConns; each runs the source for
// its own service, from the time the ClientConn leaves idleness until it closes or is idle again.
func New(source discovery.Source) resolver.Builder {
	return &builder{source: source, firstSnapshotWait: firstSnapshotWait}
}

type builder struct {
	// Immutable:
	source            discovery.Source
	firstSnapshotWait time.Duration
}

func (b *builder) Scheme() string { return Scheme }

// Build starts to follow the target's service. The error is of the target.
func (b *builder) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	r := &follower{cc: cc, service: target.Endpoint(), version: target.URL.Host, heard: make(chan struct{})}
	if err := errors.Join(discovery.ValidateService(r.service), discovery.ValidateVersion(r.version)); err != nil {
		return nil, fmt.Errorf("target %q: %w; use etcd:///SERVICE or etcd://VERSION/SERVICE", target.URL.String(), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.running.Go(func() { r.run(ctx, b.source) })                                 // ends when Close cancels ctx
	r.running.Go(func() { r.complainIfLate(ctx, b.source, b.firstSnapshotWait) }) // ends then or before
	return r, nil
}

// A follower keeps one ClientConn up to date.
type follower struct {
	// Immutable:
	cc               resolver.ClientConn
	service, version string
	cancel           context.CancelFunc
	heard            chan struct{} // closed at the first snapshot, unless it was late

	running sync.WaitGroup
	opening sync.Once // of the first snapshot and the complaint that it is late, whichever is first
}

// ResolveNow does nothing: the source publishes every change on its own.
func (r *follower) ResolveNow(resolver.ResolveNowOptions) {}

// Close ends the source's run and returns when it has ended.
func (r *follower) Close() {
	r.cancel()
	r.running.Wait()
}

func (r *follower) run(ctx context.Context, source discovery.Source) {
	err := source.Run(ctx, r.service, func(s discovery.Snapshot) {
		r.opening.Do(func() { close(r.heard) })
		r.publish(s)
	})
	if ctx.Err() == nil {
		r.cc.ReportError(fmt.Errorf("service %q: %w", r.service, err))
	}
}

func (r *follower) complainIfLate(ctx context.Context, source discovery.Source, wait time.Duration) {
	select {
	case <-r.heard:
	case <-ctx.Done():
	case <-time.After(wait):
		r.opening.Do(func() {
			r.cc.ReportError(fmt.Errorf("service %q: nothing has been heard from the service registry yet%s; "+
				"is it running, and reachable from here?", r.service, whyNot(source, r.service)))
		})
	}
}

// whyNot is why a registry has not answered yet, as far as the source can tell.
func whyNot(source discovery.Source, service string) string {
	if s, ok := source.(discovery.Reporter); ok {
		if err := s.Standing(service).Err; err != nil {
			return ": " + err.Error()
		}
	}
	return ""
}

func (r *follower) publish(s discovery.Snapshot) {
	var state resolver.State
	registered := 0
	for _, in := range s.Instances {
		if r.version != "" && in.Version != r.version {
			continue
		}
		registered++
		if in.Weight == 0 {
			continue
		}
		addrs := []resolver.Address{{Addr: in.Addr}}
		// An attribute of the endpoint is not part of its identity: a new weight makes no new connection.
		endpoint := weight.Set(resolver.Endpoint{Addresses: addrs}, weight.EndpointInfo{Weight: uint32(in.Weight)})
		state.Endpoints = append(state.Endpoints, endpoint)
		state.Addresses = append(state.Addresses, addrs...) // for policies that do not know endpoints
	}
	if len(state.Endpoints) > 0 {
		// An error would ask to resolve again, which would bring nothing new.
		_ = r.cc.UpdateState(state)
		return
	}
	// Nothing may be called any longer, so the connections must go, which an error alone would not bring about.
	// Given no endpoints at all, round_robin would hide the error behind "no children to pick from"; given one
	// without an address, it shows it.
	_ = r.cc.UpdateState(resolver.State{Endpoints: []resolver.Endpoint{{}}})
	r.cc.ReportError(r.emptiness(registered))
}

// emptiness says that no call can be made although the registry has answered.
func (r *follower) emptiness(registered int) error {
	what := fmt.Sprintf("service %q", r.service)
	if r.version != "" {
		what = fmt.Sprintf("version %q of service %q", r.version, r.service)
	}
	if registered > 0 {
		return fmt.Errorf("%s has no instance to call: all %d are drained; give one a weight above 0", what, registered)
	}
	return fmt.Errorf("%s has no instances; start one that registers itself, or register one with `lbproxy register`", what)
}
