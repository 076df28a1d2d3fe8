package proxy

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/retry"
	"github.com/lbproxy/lbproxy/traffic"
)

// A Call is one RPC on its way through the proxy, from Begin to exactly one of End, Fail and Cancel. It
// belongs to one goroutine at a time, and to its engine, which may use it again for another call. Whoever calls its
// methods owns time: an engine that handles many calls at a moment reads the clock once.
type Call struct {
	router   *Router
	service  *service
	settings *traffic.Service // as they were when the call came
	metrics  *metrics.Service
	info     picker.Info
	start    time.Time

	attempt Attempt // the one that runs, if it has an endpoint
	retries int
	tried   [retry.MaxAttempts - 1]*picker.Endpoint // room for info.Tried
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

// move counts the call with those of its service, which discovery knows by now, though not when the call came.
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
		c.service.release()
	}
}
