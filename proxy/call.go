package proxy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
)

// Policy is what all calls have in common. Its methods may be called by many goroutines at once.
type Policy struct {
	router   router
	services *Directory
	nowhere  *metrics.Service // counts calls of which no registered service is known
}

// UnknownServiceLabel stands for the service in the metrics of calls whose service never had an instance: the
// name is the caller's invention.
const UnknownServiceLabel = "_unknown"

// NewPolicy returns the policy over a set of services.
func NewPolicy(services *Directory) *Policy {
	return &Policy{services: services, nowhere: services.cfg.Calls.Service(UnknownServiceLabel)}
}

// SetRoutes replaces the configured routes. They must be valid.
func (p *Policy) SetRoutes(routes []Route) { p.router.routes.Store(&routes) }

// A Call is one RPC on its way through the proxy, from Begin to exactly one of End, Fail and Cancel. It
// belongs to one goroutine at a time, and to its engine, which may use it again for another call. Whoever calls its
// methods owns time: an engine that handles many calls at a moment reads the clock once.
type Call struct {
	policy   *Policy
	service  *service
	metrics  *metrics.Service
	info     picker.Info
	tried    [2]*picker.Endpoint // room for info.Tried
	start    time.Time
	endpoint *picker.Endpoint
	asked    time.Time // when an endpoint was asked for last
}

// Begin routes a call that has come now. It must be ended even when that fails.
func (p *Policy) Begin(c *Call, r *Request, now time.Time) *Error {
	*c = Call{policy: p, metrics: p.nowhere, start: now}
	name, version, err := p.router.route(r)
	if err == nil {
		c.service, err = p.services.enter(name)
	}
	if err == nil {
		c.metrics = c.service.seriesOr(p.nowhere)
		c.info = picker.Info{Subset: version, Tried: c.tried[:0]}
		if version == "" {
			c.info.Subset = c.service.config.Load().Version
		}
	}
	c.metrics.CallStarted()
	return err
}

// Service is the name of the service that the call is for; empty if Begin failed.
func (c *Call) Service() string {
	if c.service == nil {
		return ""
	}
	return c.service.name
}

// Endpoint is what Pick chose.
func (c *Call) Endpoint() *picker.Endpoint { return c.endpoint }

// TryPick chooses the call's endpoint from those that are connected now. If there is none but one may come,
// it returns a channel that is closed when it is worth trying again; how long in all is WaitTimeout's to say.
func (c *Call) TryPick(now time.Time) (again <-chan struct{}, _ *Error) {
	if c.metrics == c.policy.nowhere {
		c.move(c.service.seriesOr(c.policy.nowhere))
	}
	c.asked = now
	var g *picker.Generation
	if c.endpoint, g = c.service.pool.Pick(&c.info); c.endpoint != nil {
		return nil, nil
	}
	switch {
	case !g.Synced:
		return g.Changed(), nil
	case !g.Registered():
		return nil, errUnknownService(c.service.name)
	}
	// For a moment there may be none, as when the only one is restarted.
	if a := g.Available(c.info.Subset); a.Serving == 0 && now.Sub(a.ServedUntil) >= c.WaitTimeout() {
		return nil, errNoInstances(c.service.name, c.info.Subset, a, g.Poisoned, 0)
	}
	return g.Changed(), nil
}

// move has the call counted among others: of its service, which discovery knows by now, though not when the
// call came.
func (c *Call) move(to *metrics.Service) {
	to.CallStarted()
	c.metrics.CallMoved()
	c.metrics = to
}

// WaitTimeout is how long the call may wait for an endpoint.
func (c *Call) WaitTimeout() time.Duration { return c.service.config.Load().WaitTimeout }

// Keepalive is how the connection to the call's endpoint is kept an eye on while the call runs.
func (c *Call) Keepalive() Keepalive { return c.service.config.Load().Keepalive }

// Awaits says what a call waits for that TryPick has found no endpoint for.
func (c *Call) Awaits() string {
	const awaits = "waiting for an instance: "
	g := c.service.pool.Current()
	a := g.Available(c.info.Subset)
	switch {
	case !g.Synced:
		return awaits + "the registry has not answered yet" + because(c.policy.services.standing(c.service.name).Err)
	case a.Serving == 0:
		return awaits + "none is registered now that takes calls"
	}
	awaited := fmt.Sprintf("%snone of %d is connected", awaits, a.Serving)
	if last := g.LastErrors(c.info.Subset); last != "" {
		awaited += "; last error: " + last
	}
	return awaited
}

// Asked is when the call's endpoint was chosen.
func (c *Call) Asked() time.Time { return c.asked }

// WaitedTooLong is how a call fails for which no endpoint came within WaitTimeout.
func (c *Call) WaitedTooLong() *Error {
	g, waited := c.service.pool.Current(), c.WaitTimeout()
	if !g.Synced {
		return errDiscoveryUnavailable(c.service.name, waited, c.policy.services.standing(c.service.name).Err)
	}
	if a := g.Available(c.info.Subset); a.Serving == 0 {
		return errNoInstances(c.service.name, c.info.Subset, a, g.Poisoned, waited)
	}
	return errNoReadyEndpoint(c.service.name, g.Available(c.info.Subset), g.LastErrors(c.info.Subset), waited)
}

// Pick chooses the call's endpoint and waits for one to connect if it must. Ctx is the call's.
func (c *Call) Pick(ctx context.Context) error {
	again, err := c.TryPick(time.Now())
	if err != nil {
		return err
	}
	if again == nil {
		return nil
	}
	since := c.asked
	timeout := time.NewTimer(c.WaitTimeout())
	defer timeout.Stop()
	for {
		select {
		case <-again:
		case <-timeout.C:
			return c.WaitedTooLong()
		case <-ctx.Done():
			return c.Interrupted(ctx, since, c.Awaits())
		}
		if again, err = c.TryPick(time.Now()); err != nil {
			return err
		}
		if again == nil {
			return nil
		}
	}
}

// Interrupted is the error of a call whose context is done: an *Error if that is the deadline's or the proxy's
// doing, [context.Canceled] if it is the caller's. Doing is what the call did, since when.
func (c *Call) Interrupted(ctx context.Context, since time.Time, doing string) error {
	var own *Error
	if errors.As(context.Cause(ctx), &own) {
		return own
	}
	// Not the cause: at the deadline an engine may end the caller's stream a moment before the context ends itself.
	now := time.Now()
	if deadline, ok := ctx.Deadline(); ok && !now.Before(deadline) {
		return ErrDeadline(c.service.name, deadline.Sub(c.start), now.Sub(since), doing)
	}
	return context.Canceled
}

// Unpick gives the chosen endpoint back: it never got the call, and another may be picked.
func (c *Call) Unpick() {
	c.endpoint.Return()
	c.endpoint = nil
}

// Retry is Unpick for a call that goes to another endpoint, if there is one, because the chosen one failed it.
func (c *Call) Retry() {
	c.info.Tried = append(c.info.Tried, c.endpoint)
	c.metrics.CallRetried()
	c.Unpick()
}

// End ends the call with the backend's status.
func (c *Call) End(code codes.Code, now time.Time) { c.end(code, metrics.FromBackend, now) }

// Fail ends the call with a status of the proxy's own.
func (c *Call) Fail(err *Error, now time.Time) {
	c.metrics.CallFailed(string(err.Reason))
	c.end(err.Code, metrics.FromProxy, now)
}

// Cancel ends a call that its caller has given up.
func (c *Call) Cancel(now time.Time) { c.end(codes.Canceled, metrics.FromProxy, now) }

func (c *Call) end(code codes.Code, origin metrics.Origin, now time.Time) {
	took := now.Sub(c.start)
	if c.endpoint != nil {
		c.endpoint.End(picker.Result{Code: code, Began: c.asked, Took: now.Sub(c.asked)})
	}
	c.metrics.CallEnded(code, origin, took)
	if c.service != nil {
		c.service.recent.Ended(code, took, now)
		c.service.leave()
	}
}
