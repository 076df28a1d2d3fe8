package relay

import (
	"errors"
	"io"
	"time"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

var (
	errSilent = errors.New("the caller has not said in time what it speaks")
	errDefect = errors.New("a defect in lbproxy")
)

// ungreeted is why a connection has ended to a backend that has not greeted, and how that is counted.
type ungreeted struct {
	error
	cause metrics.Cause
}

// ungreeted says why a connection ends, because of err, that the backend has not greeted on.
func (c *conn) ungreeted(err error) error {
	var late tooLate
	switch said := c.Unread(); {
	case session.IsViolation(err), errors.Is(err, session.ErrFinished), errors.Is(err, errDefect), errors.As(err, new(ungreeted)):
		return err
	case errors.As(err, &late):
		return ungreeted{transport.LateGreeting(said, time.Duration(late)), metrics.CauseHandshake}
	default:
		return ungreeted{transport.NoGreeting(said, err), causeOf(err)}
	}
}

var limitCauses = [...]metrics.Cause{
	session.LimitUnread: metrics.CauseUnread, session.LimitMemory: metrics.CauseMemory,
	session.LimitHeaderList: metrics.CauseHeaderList, session.LimitContinuation: metrics.CauseContinuation,
	session.LimitResets: metrics.CauseResets, session.LimitGlitches: metrics.CauseGlitches,
}

// causeOf is how the end of a connection is counted.
func causeOf(err error) metrics.Cause {
	var e session.LimitError
	var violation h2.ConnectionError
	var foreign *transport.Foreign
	var silent ungreeted
	switch {
	case errors.As(err, &e):
		return limitCauses[e.Limit]
	case errors.As(err, &silent):
		return silent.cause
	case errors.As(err, &violation):
		return metrics.CauseProtocol
	case errors.As(err, &foreign):
		return metrics.CauseNotHTTP2
	case errors.Is(err, session.ErrFinished):
		return metrics.CauseFinished
	case errors.Is(err, errDefect):
		return metrics.CauseDefect
	case errors.Is(err, session.ErrKeepalive):
		return metrics.CauseKeepalive
	case errors.Is(err, errSilent):
		return metrics.CauseHandshake
	case errors.Is(err, io.EOF):
		return metrics.CausePeer
	}
	return metrics.CauseNetwork
}

// abandon lets go of a connection that a defect keeps from being ended in order, and of its calls wherever they
// stand, so that nothing comes back to them.
func (c *conn) abandon() {
	core := c.core
	c.servesNoMore()
	delete(core.conns, c)
	for _, s := range c.Abandon() {
		s.ForgetWindow()
		if x, ok := s.Handler().(*exchange); ok {
			x.abandon(core)
		}
	}
	for a := range core.waiting {
		if a.x.owner == c {
			delete(core.waiting, a)
			core.timers.remove(&a.x.timer)
		}
	}
	core.memory.used -= c.held
	c.held = 0
	c.driver.Close()
}

func (x *exchange) abandon(c *core) {
	x.ended = true
	c.timers.remove(&x.timer)
	for _, a := range x.attempts {
		a.stream.ForgetWindow()
	}
}
