package proxy

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/retry"
)

// Policy is what all calls have in common. Its methods may be called by many goroutines at once.
type Policy struct {
	router   router
	services *Directory
	unknown  *metrics.Service // counts calls of which no registered service is known
}

// UnknownServiceLabel stands for the service in the metrics of calls whose service never had an instance: the
// name is the caller's invention.
const UnknownServiceLabel = "_unknown"

// NewPolicy returns the policy over a set of services.
func NewPolicy(services *Directory) *Policy {
	return &Policy{services: services, unknown: services.cfg.Calls.Service(UnknownServiceLabel)}
}

// SetRoutes replaces the configured routes. They must be valid.
func (p *Policy) SetRoutes(routes []Route) { p.router.routes.Store(&routes) }

// A Call is one RPC on its way through the proxy, from Begin to exactly one of End, Fail and Cancel. It
// belongs to one goroutine at a time, and to its engine, which may use it again for another call. Whoever calls its
// methods owns time: an engine that handles many calls at a moment reads the clock once.
type Call struct {
	policy  *Policy
	service *service
	metrics *metrics.Service
	info    picker.Info
	start   time.Time

	attempt Attempt // the one that runs, if it has an endpoint
	retries int
	tried   [retry.MaxAttempts - 1]*picker.Endpoint // room for info.Tried
}

// Begin routes a call that has come now. It must be ended even when that fails.
func (p *Policy) Begin(c *Call, r *Request, now time.Time) *Error {
	*c = Call{policy: p, metrics: p.unknown, start: now}
	name, version, err := p.router.route(r)
	if err == nil {
		c.service, err = p.services.enter(name)
	}
	if err == nil {
		c.metrics = c.service.seriesOr(p.unknown)
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

// Start is when the call came.
func (c *Call) Start() time.Time { return c.start }

// Keepalive is how the connection to the call's endpoint is kept an eye on while the call runs.
func (c *Call) Keepalive() Keepalive { return c.service.config.Load().Keepalive }

// move has the call counted among others: of its service, which discovery knows by now, though not when the
// call came.
func (c *Call) move(to *metrics.Service) {
	to.CallStarted()
	c.metrics.CallMoved()
	c.metrics = to
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
	if a := &c.attempt; a.endpoint != nil {
		a.endpoint.End(picker.Result{Code: code, Began: a.start, Took: now.Sub(a.start)})
	}
	c.metrics.CallEnded(code, origin, took)
	if c.service != nil {
		c.service.recent.Ended(code, took, now)
		c.service.leave()
	}
}
