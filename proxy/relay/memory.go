package relay

import "github.com/lbproxy/lbproxy/proxy/h2"

// memory is what the calls of a core hold, against the core's share of the budget.
type memory struct {
	used, limit int
	grown       int // bytes by which the windows of calls are larger than at first
	crossings   int // that there is room for, in all connections
}

func (m *memory) exceeded() bool { return m.used > m.limit }

// spareable is the part of its limit that is for what is of use and not needed. The rest is for what calls hold within
// windows of the first size.
const spareable = 8

// scarce says that memory is not for copies of requests that might only be needed.
func (m *memory) scarce() bool { return m.used > m.limit/spareable }

// room is by how much windows may still grow: the less, the more is held.
func (m *memory) room() int { return max(0, min(m.limit/spareable-m.grown, m.limit/2-m.used)) }

// forgetGrowth is called when a stream's window has served its purpose.
func (c *core) forgetGrowth(st *stream) {
	c.memory.grown -= st.recv.Grown()
	st.recv = h2.ReceiveWindow{}
}

// streamOverhead is what a call costs beside its bytes.
const streamOverhead = 1 << 10

// charge brings what a call is charged with up to date, and its caller's connection with it.
func (c *core) charge(x *exchange) { c.chargeWith(x, x.holds()) }

func (x *exchange) holds() int {
	return streamOverhead + int(x.size) + x.trailers + x.retryBuffer.cap + x.streams[caller].queue.cap + x.streams[backend].queue.cap
}

func (c *core) chargeWith(x *exchange, holds int) {
	more := holds - x.charged
	x.charged = holds
	x.owner.held += more
	c.memory.used += more
}

// chargeConn brings what a connection is charged with for itself up to date.
func (c *core) chargeConn(cn *conn) {
	holds := cap(cn.out) + cap(cn.flight.frames) + cn.blocks + cap(cn.block)
	if cn.unparsed != nil {
		holds += cap(cn.unparsed.data)
	}
	if cn.dead {
		holds = 0
	}
	c.memory.used += holds - cn.charged
	cn.charged = holds
}

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
		if cn.charged > cn.held || !c.shedCalls(cn, target) {
			c.current = cn
			cn.fail(errMemory)
		}
	}
}

// largest is the connection that most is held for: a caller's with its calls, or what is to be written to a
// backend that does not read.
func (c *core) largest() (most *conn) {
	for cn := range c.conns {
		if most == nil || cn.held+cn.charged > most.held+most.charged {
			most = cn
		}
	}
	return most
}

// shedCalls fails the larger calls of a connection until the target is met, and tells whether that was of use.
func (c *core) shedCalls(cn *conn, target int) bool {
	before, mean := c.memory.used, cn.held/max(1, len(cn.streams))
	for _, x := range cn.streams {
		if c.memory.used <= target {
			break
		}
		if x.charged >= mean && !x.ended {
			x.discard(c)
		}
	}
	return c.memory.used < before
}
