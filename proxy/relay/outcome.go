package relay

import (
	"errors"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2"
)

// How calls end.

// endIfDelivered ends the call once the caller has got the whole response.
func (x *exchange) endIfDelivered() {
	toCaller := &x.streams[caller]
	if !toCaller.done {
		return
	}
	if !x.ended {
		x.ended = true
		x.call.End(x.code, x.owner.core.now)
	}
	x.owner.completed()
	// A response that is complete before its request ends the stream without an error (RFC 9113, section 8.1).
	x.close(caller, h2.NoError)
	x.owner.core.release(x)
}

// close ends the stream on one side, with RST_STREAM if it is not over yet.
func (x *exchange) close(s side, code h2.ErrCode) {
	st := &x.streams[s]
	if st.conn == nil {
		return
	}
	if st.done && st.gotEnd {
		st.conn.expectLate()
	} else {
		st.conn.reset(st.id, code, st.window())
	}
	st.conn.forget(x)
}

// responseEnded is called when the whole response has come. What is left of the request nobody wants, and the
// backend's stream is free for others, however long the caller takes to read.
func (x *exchange) responseEnded() {
	st := &x.streams[backend]
	if st.gotEnd = true; st.conn != nil {
		st.conn.serves()
	}
	x.close(backend, h2.Cancel)
	st.done = true
	x.owner.core.discardQueue(x, st)
}

// release gives back an exchange that both connections have forgotten.
func (c *core) release(x *exchange) {
	delete(c.waiting, x)
	x.unqueue(c)
	c.recycle(x)
}

// unqueue takes a call out of the queue for a stream, if it waits there.
func (x *exchange) unqueue(c *core) {
	if x.queued {
		x.conns().of(c).unqueue(x)
	}
}

// cancelled is called when the caller has given the call up; its stream has ended.
func (x *exchange) cancelled(c *core) {
	x.unqueue(c)
	if !x.ended {
		x.ended = true
		if x.rejected() {
			x.call.End(x.code, c.now)
		} else {
			x.call.Cancel(c.now)
		}
	}
	x.close(backend, h2.Cancel)
	c.release(x)
}

// refused is called when the backend has reset the call; its stream has ended.
func (x *exchange) refused(c *core, code h2.ErrCode) {
	if x.retry(c, code != h2.RefusedStream) {
		return
	}
	status := codeOf(code)
	if status == codes.Internal {
		x.broken(c, resetError(code))
		return
	}
	x.ended = true
	x.call.End(status, c.now)
	x.close(caller, code)
	c.release(x)
}

// resetError is a reset that says nothing a caller could act on.
type resetError h2.ErrCode

func (e resetError) Error() string { return "it reset the call with " + h2.ErrCode(e).String() }

var errNoStatus = errors.New("its answer ends without a status")

// lost is called when the backend's connection has ended.
func (x *exchange) lost(c *core, err error) {
	if isViolation(err) {
		x.broken(c, err)
		return
	}
	x.fail(c, proxy.ErrBackendLost(x.call.Service(), x.endpoint().Addr(), err))
}

// broken is called when the backend has broken the protocol on this stream.
func (x *exchange) broken(c *core, err error) {
	x.fail(c, proxy.ErrBackendProtocol(x.call.Service(), x.endpoint().Addr(), err))
}

// fail ends the call with a status of the proxy's own.
func (x *exchange) fail(c *core, err *proxy.Error) {
	x.unqueue(c)
	delete(c.waiting, x)
	if !x.ended {
		x.ended = true
		x.call.Fail(err, c.now)
	}
	c.timers.remove(&x.timer)
	x.close(backend, h2.Cancel)
	x.streams[caller].last = nothing
	x.sendStatus(c, err)
}

// discard fails a call that holds too much memory, and lets go of what it holds.
func (x *exchange) discard(c *core) {
	x.web.cut = x.streams[caller].queue.len > 0
	c.discardQueue(x, &x.streams[caller])
	c.discardQueue(x, &x.streams[backend])
	c.dropRetryBuffer(x)
	if st := &x.streams[caller]; st.conn != nil {
		st.conn.blocked.remove(x)
	}
	x.fail(c, proxy.ErrMemory(x.call.Service(), int(c.cfg.Memory)))
}
