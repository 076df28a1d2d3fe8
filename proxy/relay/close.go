package relay

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

var (
	errSilent    = errors.New("the caller has not said in time what it speaks")
	errFinished  = errors.New("the connection has served its purpose")
	errDefect    = errors.New("a defect in lbproxy")
	errKeepalive = errors.New("no answer to the keepalive PING")
)

// ungreeted is why a connection has ended to a backend that has not greeted, and how that is counted.
type ungreeted struct {
	error
	cause metrics.Cause
}

// ungreeted says why a connection ends, because of err, that the backend has not greeted on.
func (c *conn) ungreeted(err error) error {
	var late tooLate
	switch said := c.in[c.r:c.w]; {
	case isViolation(err), errors.Is(err, errFinished), errors.Is(err, errDefect), errors.As(err, new(ungreeted)):
		return err
	case errors.As(err, &late):
		return ungreeted{transport.LateGreeting(said, time.Duration(late)), metrics.CauseHandshake}
	default:
		return ungreeted{transport.NoGreeting(said, err), causeOf(err)}
	}
}

// causeOf is how the end of a connection is counted.
func causeOf(err error) metrics.Cause {
	var e limitError
	var violation h2.ConnectionError
	var foreign *transport.Foreign
	var silent ungreeted
	switch {
	case errors.As(err, &e):
		return e.cause
	case errors.As(err, &silent):
		return silent.cause
	case errors.As(err, &violation):
		return metrics.CauseProtocol
	case errors.As(err, &foreign):
		return metrics.CauseNotHTTP2
	case errors.Is(err, errFinished):
		return metrics.CauseFinished
	case errors.Is(err, errDefect):
		return metrics.CauseDefect
	case errors.Is(err, errKeepalive):
		return metrics.CauseKeepalive
	case errors.Is(err, errSilent):
		return metrics.CauseHandshake
	case errors.Is(err, io.EOF):
		return metrics.CausePeer
	}
	return metrics.CauseNetwork
}

// isViolation says whether a connection ended because of what the peer did.
func isViolation(err error) bool {
	var e limitError
	var violation h2.ConnectionError
	return errors.As(err, &e) || errors.As(err, &violation)
}

// failedFrame ends the stream that a frame has failed, or returns why the connection must end.
func (c *conn) failedFrame(err error) error {
	var e h2.StreamError
	if errors.As(err, &e) {
		return c.failStream(e)
	}
	return err
}

// failStream answers a stream error of the peer's.
func (c *conn) failStream(e h2.StreamError) error {
	x := c.streams[e.StreamID]
	switch {
	case x != nil:
		c.reset(e.StreamID, e.Code, x.streams[c.side].window())
		c.forget(x)
		if c.side == caller {
			x.cancelled(c.core)
		} else {
			x.broken(c.core, e)
		}
	case c.idle(e.StreamID):
		if c.side == backend || e.StreamID%2 == 0 {
			return h2.ConnectionError{Code: e.Code, Reason: e.Reason} // RST_STREAM must not be sent on such
		}
		c.lastID = e.StreamID
		c.reset(e.StreamID, e.Code, streamWindow)
	case c.crossing(e.StreamID) == nil:
		c.reset(e.StreamID, e.Code, noMore)
	}
	return c.glitch("stream errors")
}

// reset sends RST_STREAM to a peer that may have sent window bytes of DATA before it knows; see crossing.
func (c *conn) reset(id uint32, code h2.ErrCode, window int32) {
	c.out = h2.AppendRSTStream(c.writable(), id, code)
	c.mark()
	c.expectCrossing(id, window)
}

// window is how many bytes of DATA the peer may still send.
func (st *stream) window() int32 {
	if st.gotEnd {
		return noMore
	}
	return st.recv.Allowed()
}

// forget takes a stream off the connection.
func (c *conn) forget(x *exchange) {
	st := &x.streams[c.side]
	c.blocked.remove(x)
	delete(c.streams, st.id)
	st.conn = nil
	c.bdp.judge(&st.recv)
	if c.pool != nil {
		c.pool.onStreamClosed(c)
	}
	c.closeIfFinished()
}

// fail ends the connection because of what the peer did.
func (c *conn) fail(err error) {
	if c.dead {
		return
	}
	var foreign *transport.Foreign
	switch {
	case errors.As(err, new(ungreeted)): // it would not understand
	case !errors.As(err, &foreign):
		c.introduce()
		e := connectionError(err)
		c.out = h2.AppendGoAway(c.writable(), c.lastID, e.Code, e.Reason)
		c.mark()
	case !c.introduced:
		c.out = append(c.writable(), foreign.Answer...)
		c.mark()
	}
	c.end(err)
}

// end ends the connection and what runs on it.
func (c *conn) end(err error) {
	if c.dead {
		return
	}
	c.dead = true
	if c.pool != nil && !c.greeted {
		err = c.ungreeted(err)
	}
	c.driver.Close()
	c.core.host.connEnded(c, err)
	c.mark() // to be closed when what is left has been written
	c.core.metrics.ConnectionEnded(c.side.String(), causeOf(err))
	c.core.chargeConn(c)
	if c.acks != nil {
		c.core.timers.remove(&c.acks.timer)
	}
	c.core.timers.remove(&c.life)
	if c.keepalive != nil {
		c.core.timers.remove(&c.keepalive.timer)
	}
	c.forgetCrossings()
	delete(c.core.conns, c)
	for _, x := range c.streams {
		c.blocked.remove(x)
		x.streams[c.side].conn = nil
	}
	if c.pool != nil {
		c.pool.onGone(c, err)
		c.servesNoMore()
	}
	if c.handshake != nil && c.handshake.goneAway != nil && !isViolation(err) {
		err = fmt.Errorf("%w, and has ended the connection: %w", c.handshake.goneAway, err)
	}
	for id, x := range c.streams {
		delete(c.streams, id)
		switch {
		case c.side == caller:
			x.cancelled(c.core)
		case !x.retry(c.core, x.streams[backend].id < c.takenID):
			x.lost(c.core, err)
		}
	}
}

// abandon lets go of a connection that a defect keeps from being ended in order, and of its calls wherever they
// stand, so that nothing comes back to them.
func (c *conn) abandon() {
	c.dead = true
	c.servesNoMore()
	delete(c.core.conns, c)
	for _, x := range c.streams {
		x.ended = true
		c.core.timers.remove(&x.timer)
		c.core.forgetGrowth(&x.streams[caller])
		c.core.forgetGrowth(&x.streams[backend])
	}
	for x := range c.core.waiting {
		if x.owner == c {
			delete(c.core.waiting, x)
			c.core.timers.remove(&x.timer)
		}
	}
	c.core.memory.used -= c.held
	c.held, c.streams = 0, nil
	c.forgetCrossings()
	c.driver.Close()
	c.mark()
}

func (c *conn) onPingAck(data [8]byte) {
	if data == bdpPing {
		c.bdp.onPingAck(c.core.now)
	}
	if data == keepalivePing {
		c.keepsAlive()
	}
	if data == drainPing && c.leaving && !c.finished {
		c.finished = true
		c.goAway(c.lastID)
		c.closeIfFinished()
	}
}

func (c *conn) closeIfFinished() {
	if c.finished && len(c.streams) == 0 && c.unwritten() == 0 && !c.writing && !c.dead {
		c.end(errFinished)
	}
}
