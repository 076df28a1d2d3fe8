package relay

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
)

// maxRetryBuffer is how much of a request is kept to be sent again, until the backend answers.
const maxRetryBuffer = 64 << 10

// exchange is one call: a stream on the caller's connection, and attempts at backends.
type exchange struct {
	call     proxy.Call
	owner    *conn // the caller's connection, as long as the call lasts
	caller   session.Stream
	attempts []*attempt // that are under way, or have ended with the response that the caller gets
	began    time.Time

	request     []hpack.Field // the caller's field block
	size        uint32        // of what is sent of it, as SETTINGS_MAX_HEADER_LIST_SIZE counts
	retryBuffer session.Queue // DATA of the request, to be sent again
	replayable  bool          // retryBuffer holds all of it

	charged int // for what the call holds

	answered bool // the response has begun
	headed   bool // the caller has got the fields that begin it
	ended    bool // the call has ended, and been counted

	stage stage
	since time.Time // it is in that

	speaks dialect    // of the response: GRPC's must end with a status
	web    webContent // if it is gRPC-Web's
	code   codes.Code // of the response, as far as it has come

	deadline time.Time // the caller's; zero if there is none
	giveUp   time.Time // when an endpoint must have come; zero if none is waited for
	timer    timer     // whichever is first

	next *exchange // when it is free
}

// lead is the attempt whose response the caller gets: the only one, as long as none is hedged.
func (x *exchange) lead() *attempt { return x.attempts[0] }

func (x *exchange) startWaiting(c *core) {
	if x.giveUp.IsZero() {
		x.giveUp = c.now.Add(x.call.WaitTimeout())
		x.setTimer(c)
	}
}

func (x *exchange) stopWaiting(c *core) {
	x.giveUp = time.Time{}
	x.setTimer(c)
}

func (x *exchange) setTimer(c *core) {
	at := x.deadline
	if !x.giveUp.IsZero() && (at.IsZero() || x.giveUp.Before(at)) {
		at = x.giveUp
	}
	if !at.IsZero() || x.timer.place > 0 {
		c.set(&x.timer, at)
	}
}

func (x *exchange) timedOut(c *core) {
	if !x.deadline.IsZero() && !c.now.Before(x.deadline) {
		x.fail(c, x.outOfTime(c.now))
		return
	}
	x.fail(c, x.call.WaitedTooLong())
}

// OnInformational implements [session.StreamHandler]. Requests have no such fields.
func (x *exchange) OnInformational([]hpack.Field) {}

// OnTrailers implements [session.StreamHandler].
func (x *exchange) OnTrailers(fields []hpack.Field) {
	x.replayable = false // trailers are not kept
	for _, a := range x.attempts {
		a.sendTrailers(fields)
	}
}

// OnData implements [session.StreamHandler]. Attempts that run side by side, which none do yet, would all have to queue: a
// frame that is sent as it stands becomes one stream's, and the caller gets credit once.
func (x *exchange) OnData(frame []byte, end bool) {
	data := frame[h2.FrameHeaderLen:]
	x.bufferRetry(data)
	sent := true
	for _, a := range x.attempts {
		sent = a.send(frame, end) && sent
	}
	if sent {
		x.caller.Credit(len(data))
	}
}

// bufferRetry keeps the request for another endpoint.
func (x *exchange) bufferRetry(data []byte) {
	if !x.replayable {
		return
	}
	c := x.owner.core
	if x.answered || x.retryBuffer.Len()+len(data) > maxRetryBuffer || c.memory.scarce() {
		c.dropRetryBuffer(x)
		return
	}
	had := x.retryBuffer.Cap()
	c.sessions.Storage().Add(&x.retryBuffer, data)
	if x.retryBuffer.Cap() != had {
		c.charge(x)
	}
}

// dropRetryBuffer lets go of what was kept of a request, which will not be sent again.
func (c *core) dropRetryBuffer(x *exchange) {
	x.replayable = false
	if x.retryBuffer.Cap() > 0 {
		c.sessions.Storage().Clear(&x.retryBuffer)
		c.charge(x)
	}
}

// respond passes DATA of the response on.
func (x *exchange) respond(frame []byte, end bool) {
	data := frame[h2.FrameHeaderLen:]
	if x.caller.Ends() {
		x.lead().stream.Credit(len(data)) // nobody wants it any more
		return
	}
	if x.caller.Send(frame, end) {
		x.lead().stream.Credit(len(data))
		if end {
			x.endDelivered()
		}
		return
	}
	x.caller.Queue(data, end)
	x.owner.core.charge(x)
	x.caller.Push()
}

// headers passes fields of the response on.
func (x *exchange) headers(fields []hpack.Field, end bool) {
	switch x.caller.Headers(fields, end) {
	case session.FieldsQueued:
		x.owner.core.charge(x)
	case session.FieldsTooLong:
		x.tooLong(fields, end)
	case session.FieldsSent:
		x.headed = x.answered || end // informational responses are none
		if end {
			x.endDelivered()
		}
	}
}

// tooLong is called for fields of the response that are longer than the caller takes.
func (x *exchange) tooLong(fields []hpack.Field, end bool) {
	c, most := x.owner.core, x.caller.PeerMaxHeaderList()
	switch {
	case x.ended: // a status of the proxy's own
		if fields = shortened(fields, int(most)); fields == nil {
			x.abort(c)
			return
		}
		x.headers(fields, end)
	case x.answered:
		size := uint32(session.FieldsSize(fields))
		x.fail(c, proxy.ErrAnswerTooLarge(x.call.Service(), x.lead().endpoint().Addr(), size, most))
	default: // an informational response, which callers can do without
	}
}

// OnSent implements [session.StreamHandler].
func (x *exchange) OnSent(n int) {
	x.owner.core.charge(x)
	x.lead().stream.Credit(n)
}

// OnEnd implements [session.StreamHandler].
func (x *exchange) OnEnd() { x.endDelivered() }

// OnTooLong implements [session.StreamHandler].
func (x *exchange) OnTooLong(trailers []hpack.Field) { x.tooLong(trailers, true) }

// OnReset implements [session.StreamHandler].
func (x *exchange) OnReset(session.Reset) { x.cancelled(x.owner.core) }

// OnBroken implements [session.StreamHandler].
func (x *exchange) OnBroken(error) { x.cancelled(x.owner.core) }

// OnLost implements [session.StreamHandler].
func (x *exchange) OnLost(error, bool) { x.cancelled(x.owner.core) }
