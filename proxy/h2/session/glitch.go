package session

import (
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

// Limit is one that a peer can exceed.
type Limit uint8

// The limits.
const (
	LimitUnread Limit = iota
	LimitMemory
	LimitHeaderList
	LimitContinuation
	LimitResets
	LimitGlitches
)

// LimitError is a limit that a peer has exceeded. Its connection ends with ENHANCE_YOUR_CALM.
type LimitError struct {
	Limit  Limit
	Reason string
}

func (e LimitError) Error() string { return e.Reason }

var (
	// ErrUnread is why a connection ends whose peer does not read.
	ErrUnread    = LimitError{LimitUnread, "the peer does not read what is sent to it"}
	errFields    = LimitError{LimitHeaderList, "a field block is far too long"}
	errFragments = LimitError{LimitContinuation, "a field block comes in too many fragments"}
	errResets    = LimitError{LimitResets, "too many streams are opened and reset"}
)

// glitchPeriod is within what time glitches and resets are counted. A quiet connection that is kept alive by
// PINGs has as many in the end, but not so fast.
const glitchPeriod = 10 * time.Second

// glitches counts frames that cost work and carry nothing.
type glitches struct {
	since  int64 // in Unix nanoseconds
	inARow int   // since the last useful frame
	resets int   // more than there were calls that came to their end
	late   int   // frames that may still come on streams that both sides have ended
}

// glitch notes a frame that carries nothing, and fails where there are too many in a row.
func (c *Conn) glitch(what string) error { return c.addGlitches(1, what) }

func (c *Conn) addGlitches(n int, what string) error {
	if c.glitches.inARow += n; c.glitches.inARow <= c.group.limits.MaxGlitches || c.glitches.renewed(c.group.now) {
		return nil
	}
	return LimitError{LimitGlitches, "too many of: " + what}
}

// useful notes a frame that belongs to a call.
func (c *Conn) useful() {
	c.glitches.inARow = 0
	c.pace.beat(c.group.now)
}

// countReset notes that a caller has given up a call, whose backend may have worked for nothing.
func (c *Conn) countReset() error {
	if c.glitches.resets++; c.glitches.resets <= c.group.limits.MaxGlitches || c.glitches.renewed(c.group.now) {
		return nil
	}
	return errResets
}

// Completed notes that a call on a stream has come to its end: what the peer resets after that many is no abuse.
func (c *Conn) Completed() { c.glitches.resets = max(0, c.glitches.resets-1) }

// renewed begins to count anew if the period is over.
func (c *glitches) renewed(now int64) bool {
	if now-c.since <= int64(glitchPeriod) {
		return false
	}
	*c = glitches{since: now}
	return true
}

// connectionError is what a peer is told of why its connection ends.
func connectionError(err error) h2.ConnectionError {
	switch e := err.(type) {
	case h2.ConnectionError:
		return e
	case LimitError:
		return h2.ConnectionError{Code: h2.EnhanceYourCalm, Reason: e.Reason}
	}
	return h2.ConnectionError{Code: h2.InternalError, Reason: err.Error()}
}
