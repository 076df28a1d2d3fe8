package relay

import (
	"errors"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2"
)

// How calls end.

// settle ends the call once the caller has got the whole response.
func (st *stream) settle() {
	toCaller := &st.half[caller]
	if !toCaller.done {
		return
	}
	if !st.ended {
		st.ended = true
		st.call.End(st.code, st.owner.core.now)
	}
	st.owner.completed()
	// A response that is complete before its request ends the stream without an error (RFC 9113, section 8.1).
	st.close(caller, h2.NoError)
	st.owner.core.release(st)
}

// close ends one half of the call, with RST_STREAM if it is not over yet.
func (st *stream) close(s side, code h2.ErrCode) {
	h := &st.half[s]
	if h.conn == nil {
		return
	}
	if h.done && h.gotEnd {
		h.conn.closedInPeace()
	} else {
		h.conn.reset(h.id, code, h.window())
	}
	h.conn.forget(st)
}

// responseEnded is called when the whole response has come. What is left of the request nobody wants, and the
// backend's stream is free for others, however long the caller takes to read.
func (st *stream) responseEnded() {
	h := &st.half[backend]
	if h.gotEnd = true; h.conn != nil {
		h.conn.serves()
	}
	st.close(backend, h2.Cancel)
	h.done = true
	st.owner.core.discardQueue(st, h)
}

// release gives back a stream that both connections have forgotten.
func (c *core) release(st *stream) {
	delete(c.waiting, st)
	st.unqueue(c)
	c.recycle(st)
}

// unqueue takes a call out of the line for a stream, if it stands there.
func (st *stream) unqueue(c *core) {
	if st.queued {
		st.call.Endpoint().Conn().(*destination).of(c).unqueue(st)
	}
}

// cancelled is called when the caller has given the call up; its half has ended.
func (st *stream) cancelled(c *core) {
	st.unqueue(c)
	if !st.ended {
		st.ended = true
		if st.rejected() {
			st.call.End(st.code, c.now)
		} else {
			st.call.Cancel(c.now)
		}
	}
	st.close(backend, h2.Cancel)
	c.release(st)
}

// refused is called when the backend has reset the call; its half has ended.
func (st *stream) refused(c *core, code h2.ErrCode) {
	if code == h2.RefusedStream && st.again(c) {
		return
	}
	status := codeOf(code)
	if status == codes.Internal {
		st.broken(c, resetError(code))
		return
	}
	st.ended = true
	st.call.End(status, c.now)
	st.close(caller, code)
	c.release(st)
}

// resetError is a reset that says nothing a caller could act on.
type resetError h2.ErrCode

func (e resetError) Error() string { return "it reset the call with " + h2.ErrCode(e).String() }

var errNoStatus = errors.New("its answer ends without a status")

// lost is called when the backend's connection has ended.
func (st *stream) lost(c *core, err error) {
	if isViolation(err) {
		st.broken(c, err)
		return
	}
	st.fail(c, proxy.ErrBackendLost(st.call.Service(), st.call.Endpoint().Addr(), err))
}

// broken is called when the backend has broken the protocol on this stream.
func (st *stream) broken(c *core, err error) {
	st.fail(c, proxy.ErrBackendProtocol(st.call.Service(), st.call.Endpoint().Addr(), err))
}

// fail ends the call with a status of the proxy's own.
func (st *stream) fail(c *core, err *proxy.Error) {
	st.unqueue(c)
	delete(c.waiting, st)
	if !st.ended {
		st.ended = true
		st.call.Fail(err, c.now)
	}
	c.timers.remove(&st.timer)
	st.close(backend, h2.Cancel)
	st.half[caller].last = nothing
	st.tell(c, err)
}

// discard fails a call that holds too much memory, and lets go of what it holds.
func (st *stream) discard(c *core) {
	st.web.cut = st.half[caller].queue.len > 0
	c.discardQueue(st, &st.half[caller])
	c.discardQueue(st, &st.half[backend])
	c.unkeep(st)
	if h := &st.half[caller]; h.conn != nil {
		h.conn.blocked.remove(st)
	}
	st.fail(c, proxy.ErrMemory(st.call.Service(), int(c.cfg.Memory)))
}
