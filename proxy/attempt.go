package proxy

import (
	"time"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/retry"
)

// An Attempt is a call at one endpoint: from TryPick or Pick until the call ends, Failed decides to retry, or Unpick. It
// lives in its call.
type Attempt struct {
	endpoint *picker.Endpoint
	start    time.Time
}

// Endpoint is where the attempt is made.
func (a *Attempt) Endpoint() *picker.Endpoint { return a.endpoint }

// Start is when the endpoint was picked.
func (a *Attempt) Start() time.Time { return a.start }

// TryPick begins an attempt at one of the endpoints that are connected now, if possible at one that has not been tried.
// If none is connected but one may come, it returns a channel that is closed when it is worth trying again; how long in
// all is WaitTimeout's to say.
func (c *Call) TryPick(now time.Time) (_ *Attempt, again <-chan struct{}, _ *Error) {
	if c.metrics == c.router.unknown {
		c.move(c.service.seriesOr(c.router.unknown))
	}
	endpoint, g := c.service.pool.Pick(&c.info)
	if endpoint != nil {
		c.attempt = Attempt{endpoint, now}
		return &c.attempt, nil, nil
	}
	switch {
	case !g.Synced:
		return nil, g.Changed(), nil
	case !g.Registered():
		return nil, nil, errUnknownService(c.service.name)
	}
	// For a moment there may be none, as when the only one is restarted.
	if a := g.Available(c.info.Subset); a.Serving == 0 && now.Sub(a.ServedUntil) >= c.WaitTimeout() {
		return nil, nil, errNoInstances(c.service.name, c.info.Subset, a, g.Poisoned, 0)
	}
	return nil, g.Changed(), nil
}

// Failed reports that an attempt has ended without the backend's status, and decides what becomes of the call. To retry
// is to pick again; after Fail the engine ends the call.
func (c *Call) Failed(a *Attempt, f retry.Failure) retry.Decision {
	decision := retry.Decide(c.retries+1, f)
	if decision == retry.Retry {
		c.metrics.CallRetried()
		c.retries++
		c.info.Tried = append(c.info.Tried, a.endpoint)
		c.Unpick(a)
	}
	return decision
}

// Unpick takes an attempt back: its endpoint never got the call, and another may be picked.
func (c *Call) Unpick(a *Attempt) {
	a.endpoint.Return()
	*a = Attempt{}
}
