package relay

import "github.com/lbproxy/lbproxy/proxy/h2/session"

// memory is what the calls of a core hold, against the core's share of the budget.
type memory struct {
	used, limit int
	grown       int // bytes by which the windows of calls are larger than at first
	remembered  int // bytes for what is remembered of closed streams, in all connections
}

func (m *memory) exceeded() bool { return m.used > m.limit }

// spareable is the part of its limit that is for what is of use and not needed. The rest is for what calls hold within
// windows of the first size.
const spareable = 8

// scarce says that memory is not for copies of requests that might only be needed.
func (m *memory) scarce() bool { return m.used > m.limit/spareable }

// Room implements [session.Budget]: the less, the more is held.
func (m *memory) Room() int { return max(0, min(m.limit/spareable-m.grown, m.limit/2-m.used)) }

// Grow implements [session.Budget].
func (m *memory) Grow(n int) { m.grown += n }

// Hold implements [session.Budget].
func (m *memory) Hold(n int) { m.used += n }

// remembering is the part of a memory's limit that is for streams that have been closed.
const remembering = 64

// Remember implements [session.Budget].
func (m *memory) Remember(n int) bool {
	if n > 0 && m.remembered+n > m.limit/remembering {
		return false
	}
	m.remembered += n
	return true
}

// streamOverhead is what a call costs beside its bytes.
const streamOverhead = 1 << 10

// charge brings what a call is charged with up to date, and its caller's connection with it.
func (c *core) charge(x *exchange) { c.chargeWith(x, x.holds()) }

func (x *exchange) holds() int {
	n := streamOverhead + int(x.size) + x.retryBuffer.Cap() + x.caller.Held()
	for _, a := range x.attempts {
		n += a.stream.Held()
	}
	return n
}

func (c *core) chargeWith(x *exchange, holds int) {
	more := holds - x.charged
	x.charged = holds
	x.owner.held += more
	c.memory.used += more
}

var errMemory = session.LimitError{Limit: session.LimitMemory, Reason: "the memory for calls is used up, and most of it by this connection"}

// relief is the part of its limit by which shedding takes the memory below it, so that it is not done for
// every few bytes.
const relief = 16

// shed ends what holds most of a memory that is used up.
func (c *core) shed() {
	target := c.memory.limit - c.memory.limit/relief
	for c.memory.used > target {
		cn := c.largest()
		if cn == nil {
			return
		}
		if cn.Held() > cn.held || !c.shedCalls(cn, target) {
			c.guard(cn, func() { cn.Fail(errMemory) })
		}
	}
}

// largest is the connection that most is held for: a caller's with its calls, or what is to be written to a
// backend that does not read.
func (c *core) largest() (most *conn) {
	for cn := range c.conns {
		if most == nil || cn.held+cn.Held() > most.held+most.Held() {
			most = cn
		}
	}
	return most
}

// shedCalls fails the larger calls of a connection until the target is met, and tells whether that was of use.
func (c *core) shedCalls(cn *conn, target int) bool {
	before, mean := c.memory.used, cn.held/max(1, cn.Len())
	for s := range cn.Streams() {
		x := exchangeOf(s)
		if c.memory.used <= target {
			break
		}
		if x.charged >= mean && !x.ended {
			c.guard(cn, func() { x.discard(c) })
		}
	}
	return c.memory.used < before
}
