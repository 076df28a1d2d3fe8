package relay

import (
	"time"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy/h2"
)

// excess is something that a peer does too much of. Its connection ends with ENHANCE_YOUR_CALM.
type excess struct {
	cause  metrics.Cause
	reason string
}

func (e excess) Error() string { return e.reason }

var (
	errUnread    = excess{metrics.CauseUnread, "the peer does not read what is sent to it"}
	errMemory    = excess{metrics.CauseMemory, "the memory for calls is used up, and most of it by this connection"}
	errFields    = excess{metrics.CauseHeaderList, "a field block is far too long"}
	errFragments = excess{metrics.CauseContinuation, "a field block comes in too many fragments"}
	errResets    = excess{metrics.CauseResets, "too many streams are opened and reset"}
)

// glitchPeriod is within what time glitches and resets are counted. A quiet connection that is kept alive by
// PINGs has as many in the end, but not so fast.
const glitchPeriod = 10 * time.Second

// calm counts what a peer does that costs us and helps nobody.
type calm struct {
	since    time.Time
	glitches int // on end
	resets   int // more than there were calls that came to their end
	late     int // frames that may still come on streams that both sides have ended
}

// glitch notes a frame that helps nobody, and fails where there are too many on end.
func (c *conn) glitch(what string) error { return c.glitches(1, what) }

func (c *conn) glitches(n int, what string) error {
	if c.calm.glitches += n; c.calm.glitches <= c.core.cfg.MaxGlitches || c.calm.renewed(c.core.now) {
		return nil
	}
	return excess{metrics.CauseGlitches, "too many of: " + what}
}

// useful notes a frame that belongs to a call.
func (c *conn) useful() {
	c.calm.glitches = 0
	c.pace.beat(c.core.now)
}

// resetAgain notes that a caller has given up a call, whose backend may have worked for nothing.
func (c *conn) resetAgain() error {
	if c.calm.resets++; c.calm.resets <= c.core.cfg.MaxGlitches || c.calm.renewed(c.core.now) {
		return nil
	}
	return errResets
}

// completed notes that a call has come to its end.
func (c *conn) completed() { c.calm.resets = max(0, c.calm.resets-1) }

// renewed begins to count anew if the period is over.
func (c *calm) renewed(now time.Time) bool {
	if now.Sub(c.since) <= glitchPeriod {
		return false
	}
	*c = calm{since: now}
	return true
}

// connectionError is what a peer is told of why its connection ends.
func connectionError(err error) h2.ConnectionError {
	switch e := err.(type) {
	case h2.ConnectionError:
		return e
	case excess:
		return h2.ConnectionError{Code: h2.EnhanceYourCalm, Reason: e.reason}
	}
	return h2.ConnectionError{Code: h2.InternalError, Reason: err.Error()}
}
