package relay

import (
	"time"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy/h2"
)

// limitError is a limit that a peer has exceeded. Its connection ends with ENHANCE_YOUR_CALM.
type limitError struct {
	cause  metrics.Cause
	reason string
}

func (e limitError) Error() string { return e.reason }

var (
	errUnread    = limitError{metrics.CauseUnread, "the peer does not read what is sent to it"}
	errMemory    = limitError{metrics.CauseMemory, "the memory for calls is used up, and most of it by this connection"}
	errFields    = limitError{metrics.CauseHeaderList, "a field block is far too long"}
	errFragments = limitError{metrics.CauseContinuation, "a field block comes in too many fragments"}
	errResets    = limitError{metrics.CauseResets, "too many streams are opened and reset"}
)

// glitchPeriod is within what time glitches and resets are counted. A quiet connection that is kept alive by
// PINGs has as many in the end, but not so fast.
const glitchPeriod = 10 * time.Second

// glitches counts frames that cost work and carry nothing.
type glitches struct {
	since  time.Time
	inARow int // since the last useful frame
	resets int // more than there were calls that came to their end
	late   int // frames that may still come on streams that both sides have ended
}

// glitch notes a frame that carries nothing, and fails where there are too many in a row.
func (c *conn) glitch(what string) error { return c.addGlitches(1, what) }

func (c *conn) addGlitches(n int, what string) error {
	if c.glitches.inARow += n; c.glitches.inARow <= c.core.cfg.MaxGlitches || c.glitches.renewed(c.core.now) {
		return nil
	}
	return limitError{metrics.CauseGlitches, "too many of: " + what}
}

// useful notes a frame that belongs to a call.
func (c *conn) useful() {
	c.glitches.inARow = 0
	c.pace.beat(c.core.now)
}

// countReset notes that a caller has given up a call, whose backend may have worked for nothing.
func (c *conn) countReset() error {
	if c.glitches.resets++; c.glitches.resets <= c.core.cfg.MaxGlitches || c.glitches.renewed(c.core.now) {
		return nil
	}
	return errResets
}

// completed notes that a call has come to its end.
func (c *conn) completed() { c.glitches.resets = max(0, c.glitches.resets-1) }

// renewed begins to count anew if the period is over.
func (c *glitches) renewed(now time.Time) bool {
	if now.Sub(c.since) <= glitchPeriod {
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
	case limitError:
		return h2.ConnectionError{Code: h2.EnhanceYourCalm, Reason: e.reason}
	}
	return h2.ConnectionError{Code: h2.InternalError, Reason: err.Error()}
}
