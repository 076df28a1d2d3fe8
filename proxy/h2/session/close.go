package session

import (
	"errors"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

var (
	// ErrFinished is why a connection ends that has served its purpose.
	ErrFinished = errors.New("the connection has served its purpose")
	// ErrKeepalive is why a connection ends whose server has not answered; see [Conn.KeepAlive].
	ErrKeepalive = errors.New("no answer to the keepalive PING")
)

// Reset is why a peer has ended a stream.
type Reset struct {
	Code  h2.ErrCode
	Began bool // the peer may have begun to process it
}

// IsViolation says whether a connection ended because of what the peer did.
func IsViolation(err error) bool {
	var e LimitError
	var violation h2.ConnectionError
	return errors.As(err, &e) || errors.As(err, &violation)
}

// failedFrame ends the stream that a frame has failed, or returns why the connection must end.
func (c *Conn) failedFrame(err error) error {
	var e h2.StreamError
	if errors.As(err, &e) {
		return c.failStream(e)
	}
	return err
}

// failStream answers a stream error of the peer's.
func (c *Conn) failStream(e h2.StreamError) error {
	s := c.streams[e.StreamID]
	switch {
	case s != nil:
		c.reset(e.StreamID, e.Code, s.window())
		c.forget(s)
		s.handler.OnBroken(e)
	case c.idle(e.StreamID):
		if c.role == Client || e.StreamID%2 == 0 {
			return h2.ConnectionError{Code: e.Code, Reason: e.Reason} // RST_STREAM must not be sent on such
		}
		c.lastID = e.StreamID
		c.reset(e.StreamID, e.Code, streamWindow)
	case c.crossing(e.StreamID) == nil:
		c.reset(e.StreamID, e.Code, noMore)
	}
	return c.glitch("stream errors")
}

func (c *Conn) onRSTStream(h h2.FrameHeader, payload []byte) error {
	s := c.streams[h.StreamID]
	if s == nil {
		return c.notOpen(h)
	}
	code := h2.ParseRSTStream(payload)
	c.forget(s)
	s.handler.OnReset(Reset{code, code != h2.RefusedStream})
	if c.role == Server {
		return c.countReset()
	}
	return nil
}

// reset sends RST_STREAM to a peer that may have sent window bytes of DATA before it knows; see crossing.
func (c *Conn) reset(id uint32, code h2.ErrCode, window int32) {
	c.out = h2.AppendRSTStream(c.writable(), id, code)
	c.mark()
	c.expectCrossing(id, window)
}

// Fail ends the connection because of what the peer did, and tells it by GOAWAY.
func (c *Conn) Fail(err error) {
	if c.dead {
		return
	}
	c.introduce()
	e := connectionError(err)
	c.out = h2.AppendGoAway(c.writable(), c.lastID, e.Code, e.Reason)
	c.mark()
	c.Close(err)
}

// Close ends the connection and what runs on it. What is to be written already is left to be.
func (c *Conn) Close(err error) {
	if c.dead {
		return
	}
	c.dead = true
	c.charge()
	c.forgetCrossings()
	for _, s := range c.streams {
		c.blocked.Remove(s)
		s.conn = nil
	}
	err = c.handler.OnClosed(err)
	for id, s := range c.streams {
		delete(c.streams, id)
		s.handler.OnLost(err, s.id < c.takenID)
	}
	c.mark() // to be closed when what is left has been written
}

// Abandon lets go of a connection that a defect keeps from being closed in order. It returns its streams.
func (c *Conn) Abandon() map[uint32]*Stream {
	left := c.streams
	c.dead, c.streams = true, nil
	c.forgetCrossings()
	c.mark()
	return left
}

func (c *Conn) closeIfFinished() {
	if c.finished && len(c.streams) == 0 && c.unwritten() == 0 && !c.writing && !c.dead {
		c.Close(ErrFinished)
	}
}
