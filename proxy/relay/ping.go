package relay

import (
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

// Peers that measure the bandwidth, as grpc-go does, ping with nearly every message, unless an answer is still to
// come. An answer by itself would double the writes, and one that goes with the next frames brings the next PING. So
// answers wait, though never for more than ackDelay.
var (
	ackDelay = [...]time.Duration{caller: 2 * time.Millisecond, backend: 50 * time.Millisecond}
	// ackRest is after what time an answer goes with what is written.
	ackRest = [...]time.Duration{caller: time.Millisecond, backend: 25 * time.Millisecond}
)

const (
	// ackBytes is with how many bytes an answer goes at once: a peer that is sent as much measures in earnest, and
	// should not take our delay for the network's.
	ackBytes = 16 << 10
	// maxAcks is how many answers wait.
	maxAcks = 8
)

// acks are the answers to PINGs that wait.
type acks struct {
	frames  []byte
	since   time.Time // when the first came
	written int       // bytes since then
	timer   timer     // when they have waited long enough
}

func (c *conn) onPing(h h2.FrameHeader, payload []byte) error {
	if h.Flags.Has(h2.FlagAck) {
		c.onPingAck(h2.ParsePing(payload))
		return c.glitch("answers to PINGs")
	}
	if c.acks == nil {
		c.acks = &acks{timer: timer{fire: c.flushAcks}}
	}
	a := c.acks
	first := len(a.frames) == 0
	a.frames = h2.AppendPing(a.frames, true, h2.ParsePing(payload))
	if delay := ackDelay[c.side]; len(a.frames) >= maxAcks*(h2.FrameHeaderLen+h2.PingLen) || c.pace.period() >= delay {
		c.flushAcks(c.core)
	} else if first {
		a.since, a.written = c.core.now, 0
		c.core.set(&a.timer, c.core.now.Add(delay))
	}
	return c.glitch("PING")
}

// addAcks adds to what is about to be written the answers that may go with it.
func (c *conn) addAcks() {
	a := c.acks
	if a == nil || len(a.frames) == 0 {
		return
	}
	if a.written += c.unwritten(); a.written < ackBytes && c.core.now.Sub(a.since) < ackRest[c.side] {
		return
	}
	c.out = append(c.writable(), a.frames...)
	a.frames = a.frames[:0]
}

func (c *conn) flushAcks(core *core) {
	core.current = c
	if len(c.acks.frames) > 0 {
		c.out = append(c.writable(), c.acks.frames...)
		c.acks.frames = c.acks.frames[:0]
		c.mark()
	}
}

// pace is how quickly the frames of calls follow each other on a connection, either way.
type pace struct {
	last time.Time
	gaps [2]time.Duration // that of a call from its request to its response, and that between calls
}

func (p *pace) beat(now time.Time) {
	if gap := now.Sub(p.last); gap > 0 {
		p.last = now
		p.gaps = [2]time.Duration{min(gap, time.Hour), p.gaps[0]}
	}
}

// period is within what time the next frames of the same kind are likely.
func (p *pace) period() time.Duration { return p.gaps[0] + p.gaps[1] }
