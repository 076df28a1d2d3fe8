package session

import (
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

// Peers that measure the bandwidth, as grpc-go does, ping with nearly every message, unless an answer is still to
// come. An answer by itself would double the writes, and one that goes with the next frames brings the next PING. So
// answers wait, though never for more than ackDelay.
var (
	ackDelay = [...]time.Duration{Server: 2 * time.Millisecond, Client: 50 * time.Millisecond}
	// ackRest is after what time an answer goes with what is written.
	ackRest = [...]time.Duration{Server: time.Millisecond, Client: 25 * time.Millisecond}
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
	since   int64 // when the first came, in Unix nanoseconds
	written int   // bytes since then
}

func (c *Conn) onPing(h h2.FrameHeader, payload []byte) error {
	if h.Flags.Has(h2.FlagAck) {
		c.onPingAck(h2.ParsePing(payload))
		return c.glitch("answers to PINGs")
	}
	if c.acks == nil {
		c.acks = new(acks)
	}
	a := c.acks
	first := len(a.frames) == 0
	a.frames = h2.AppendPing(a.frames, true, h2.ParsePing(payload))
	if delay := ackDelay[c.role]; len(a.frames) >= maxAcks*(h2.FrameHeaderLen+h2.PingLen) || c.pace.period() >= delay {
		c.flushAcks()
	} else if first {
		a.since, a.written = c.group.now, 0
		c.arm(a.due(c.role))
	}
	return c.glitch("PING")
}

// due is when the answers have waited long enough, in Unix nanoseconds.
func (a *acks) due(r Role) int64 { return a.since + int64(ackDelay[r]) }

// addAcks adds to what is about to be written the answers that may go with it.
func (c *Conn) addAcks() {
	a := c.acks
	if a == nil || len(a.frames) == 0 {
		return
	}
	if a.written += c.unwritten(); a.written < ackBytes && c.group.now-a.since < int64(ackRest[c.role]) {
		return
	}
	c.out = append(c.writable(), a.frames...)
	a.frames = a.frames[:0]
}

func (c *Conn) flushAcks() {
	c.out = append(c.writable(), c.acks.frames...)
	c.acks.frames = c.acks.frames[:0]
	c.mark()
}

// expireAcks sends the answers that have waited long enough.
func (c *Conn) expireAcks() {
	switch a := c.acks; {
	case c.dead || a == nil || len(a.frames) == 0:
	case a.due(c.role) <= c.group.now:
		c.flushAcks()
	default:
		c.arm(a.due(c.role))
	}
}

// pace is how quickly the frames of calls follow each other on a connection, either way.
type pace struct {
	last int64            // in Unix nanoseconds
	gaps [2]time.Duration // that of a call from its request to its response, and that between calls
}

func (p *pace) beat(now int64) {
	if gap := time.Duration(now - p.last); gap > 0 {
		p.last = now
		p.gaps = [2]time.Duration{min(gap, time.Hour), p.gaps[0]}
	}
}

// period is within what time the next frames of the same kind are likely.
func (p *pace) period() time.Duration { return p.gaps[0] + p.gaps[1] }
