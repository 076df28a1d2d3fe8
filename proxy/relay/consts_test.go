package relay

import (
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
)

// What sessions do, as peers see it.
const (
	maxFrameSize    = 16 << 10
	streamWindow    = h2.InitialWindow
	quickWindow     = 2 << 20
	maxStreamWindow = 16 << 20
	highWater       = 192 << 10
	readBuffer      = 128 << 10
	maxWork         = 256 << 10
	maxUnneeded     = 32
	glitchPeriod    = 10 * time.Second

	crossingTime   = 30 * time.Second
	crossingFrames = 100
	crossingSize   = 16
	maxCrossings   = 16 << 10
)

var (
	ackDelay = [...]time.Duration{caller: 2 * time.Millisecond, backend: 50 * time.Millisecond}
	ackRest  = [...]time.Duration{caller: time.Millisecond, backend: 25 * time.Millisecond}

	bdpPing       = [8]byte{'b', 'd', 'p'}
	drainPing     = [8]byte{'d', 'r', 'a', 'i', 'n'}
	keepalivePing = [8]byte{'a', 'l', 'i', 'v', 'e'}
)

// callOf is the call on a stream of a caller; nil if there is none.
func callOf(c *conn, id uint32) *exchange {
	if s := c.Stream(id); s != nil {
		return exchangeOf(s)
	}
	return nil
}

// unfair says that glitches are counted that were not before.
func unfair(c *conn, before session.State) bool {
	now := c.State()
	return now.InARow != before.InARow || now.Resets != before.Resets
}

// windowOf is the size of the window that we give the peer of a stream.
func windowOf(c *conn, id uint32) int32 {
	w := c.Stream(id).Window()
	return w.Size()
}
