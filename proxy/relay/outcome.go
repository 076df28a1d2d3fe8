package relay

import (
	"errors"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
)

// How calls end.

// endDelivered ends the call, of which the caller has got the whole response.
func (x *exchange) endDelivered() {
	c := x.owner.core
	if !x.ended {
		x.ended = true
		x.call.End(x.code, c.now)
	}
	x.owner.Completed()
	// A response that is complete before its request ends the stream without an error (RFC 9113, section 8.1).
	x.caller.Close(h2.NoError)
	x.release(c)
}

// release gives back an exchange whose caller's stream is closed.
func (x *exchange) release(c *core) {
	for _, a := range x.attempts {
		delete(c.waiting, a)
		a.unqueue(c)
	}
	c.recycle(x)
}

// stopAttempts ends the attempts, which are of no use any more.
func (x *exchange) stopAttempts(c *core) {
	for _, a := range x.attempts {
		a.unqueue(c)
		delete(c.waiting, a)
		a.stream.Close(h2.Cancel)
	}
}

// cancelled is called when the caller has given the call up; its stream has ended.
func (x *exchange) cancelled(c *core) {
	x.stopAttempts(c)
	if !x.ended {
		x.ended = true
		if x.rejected() {
			x.call.End(x.code, c.now)
		} else {
			x.call.Cancel(c.now)
		}
	}
	x.release(c)
}

// fail ends the call with a status of the proxy's own.
func (x *exchange) fail(c *core, err *proxy.Error) {
	x.stopAttempts(c)
	if !x.ended {
		x.ended = true
		x.call.Fail(err, c.now)
	}
	c.timers.remove(&x.timer)
	x.caller.TakeBackEnd()
	x.sendStatus(c, err)
}

// discard fails a call that holds too much memory, and lets go of what it holds.
func (x *exchange) discard(c *core) {
	x.web.cut = x.caller.Queued() > 0
	x.caller.Discard()
	for _, a := range x.attempts {
		a.stream.Discard()
	}
	c.dropRetryBuffer(x)
	c.charge(x)
	x.fail(c, proxy.ErrMemory(x.call.Service(), int(c.cfg.Memory)))
}

// refused is called when the backend has reset the call.
func (a *attempt) refused(c *core, r session.Reset) {
	if a.retry(c, r.Began) {
		return
	}
	status := codeOf(r.Code)
	if status == codes.Internal {
		a.broken(c, resetError(r.Code))
		return
	}
	x := a.x
	x.ended = true
	x.call.End(status, c.now)
	x.caller.Close(r.Code)
	x.release(c)
}

// resetError is a reset that says nothing a caller could act on.
type resetError h2.ErrCode

func (e resetError) Error() string { return "it reset the call with " + h2.ErrCode(e).String() }

var errNoStatus = errors.New("its answer ends without a status")

// lost is called when the backend's connection has ended.
func (a *attempt) lost(c *core, err error) {
	if session.IsViolation(err) {
		a.broken(c, err)
		return
	}
	a.x.fail(c, proxy.ErrBackendLost(a.x.call.Service(), a.endpoint().Addr(), err))
}

// broken is called when the backend has broken the protocol on this stream.
func (a *attempt) broken(c *core, err error) {
	a.x.fail(c, proxy.ErrBackendProtocol(a.x.call.Service(), a.endpoint().Addr(), err))
}
