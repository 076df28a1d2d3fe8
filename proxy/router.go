package proxy

import (
	"time"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/traffic"
)

// Router is what all calls have in common. Its methods may be called by many goroutines at once.
type Router struct {
	services *Directory
	unknown  *metrics.Service // counts calls of which no registered service is known
}

// UnknownServiceLabel stands for the service in the metrics of calls whose service never had an instance: the
// name is the caller's invention.
const UnknownServiceLabel = "_unknown"

// NewRouter returns the router of calls to a set of services.
func NewRouter(services *Directory) *Router {
	return &Router{services: services, unknown: services.cfg.Calls.Service(UnknownServiceLabel)}
}

// Begin routes a call that has come now. It must be ended even when that fails.
func (r *Router) Begin(c *Call, req *traffic.Request, now time.Time) *Error {
	*c = Call{router: r, metrics: r.unknown, start: now}
	var action traffic.Action
	found, err := r.services.acquire(req, &action)
	if err == nil {
		c.service, c.settings = found.service, found.settings
		c.metrics = c.service.seriesOr(r.unknown)
		if c.info.Tried, c.info.Subset = c.tried[:0], action.Subset; action.Subset == "" {
			c.info.Subset = c.settings.Version
		}
	}
	c.metrics.CallStarted()
	return err
}
