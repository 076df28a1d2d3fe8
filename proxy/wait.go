package proxy

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// WaitTimeout is how long the call may wait for an endpoint.
func (c *Call) WaitTimeout() time.Duration { return c.settings.WaitTimeout }

// Pick is TryPick, and waits for an endpoint to connect if it must. Ctx is the call's.
func (c *Call) Pick(ctx context.Context) (*Attempt, error) {
	since := time.Now()
	a, again, err := c.TryPick(since)
	if err != nil {
		return nil, err
	}
	if a != nil {
		return a, nil
	}
	timeout := time.NewTimer(c.WaitTimeout())
	defer timeout.Stop()
	for a == nil {
		select {
		case <-again:
		case <-timeout.C:
			return nil, c.WaitedTooLong()
		case <-ctx.Done():
			return nil, c.Interrupted(ctx, since, c.Awaits())
		}
		if a, again, err = c.TryPick(time.Now()); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Awaits says what a call waits for that TryPick has found no endpoint for.
func (c *Call) Awaits() string {
	const awaits = "waiting for an instance: "
	g := c.service.pool.Current()
	a := g.Available(c.info.Subset)
	switch {
	case !g.Synced:
		return awaits + "the registry has not answered yet" + because(c.router.services.standing(c.service.name).Err)
	case a.Serving == 0:
		return awaits + "none is registered now that takes calls"
	}
	awaited := fmt.Sprintf("%snone of %d is connected", awaits, a.Serving)
	if last := g.LastErrors(c.info.Subset); last != "" {
		awaited += "; last error: " + last
	}
	return awaited
}

// WaitedTooLong is how a call fails for which no endpoint came within WaitTimeout.
func (c *Call) WaitedTooLong() *Error {
	g, waited := c.service.pool.Current(), c.WaitTimeout()
	if !g.Synced {
		return errDiscoveryUnavailable(c.service.name, waited, c.router.services.standing(c.service.name).Err)
	}
	if a := g.Available(c.info.Subset); a.Serving == 0 {
		return errNoInstances(c.service.name, c.info.Subset, a, g.Poisoned, waited)
	}
	return errNoReadyEndpoint(c.service.name, g.Available(c.info.Subset), g.LastErrors(c.info.Subset), waited)
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
