package relay

import (
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
	"github.com/lbproxy/lbproxy/proxy/retry"
)

// attempt is a call at one endpoint: a stream to a backend, and before that the request as far as it has come.
type attempt struct {
	x        *exchange
	picked   *proxy.Attempt // nil while it waits for an endpoint
	stream   session.Stream
	conn     *conn // that it was opened on last
	credited int   // how much of what is queued was sent before, to another endpoint
	queued   bool  // waits for a stream on a connection of its endpoint
	over     bool  // the whole response has come: nobody wants the rest of the request

	next *attempt // when it is free
}

func (a *attempt) endpoint() *picker.Endpoint { return a.picked.Endpoint() }

// conns is the connections to the endpoint.
func (a *attempt) conns() *endpointConns { return a.endpoint().Conn().(*endpointConns) }

// pick chooses an endpoint and opens the call there, or waits for one.
func (a *attempt) pick(c *core) {
	x := a.x
	picked, again, err := x.call.TryPick(c.now)
	a.picked = picked
	switch {
	case err != nil:
		x.fail(c, err)
		return
	case again != nil:
		a.await(c, again)
		return
	}
	delete(c.waiting, a)
	a.conns().of(c).assign(c, a)
	// Perhaps it has ended already.
}

func (a *attempt) await(c *core, again <-chan struct{}) {
	a.x.setStage(picking, c.now)
	a.x.startWaiting(c)
	c.waiting[a] = struct{}{}
	c.host.wakeWhen(again)
}

// open sends the request, as far as it has come, on a connection of the picked endpoint.
func (a *attempt) open(cn *conn) {
	x, c := a.x, cn.core
	x.age(c)
	if most := cn.PeerMaxHeaderList(); x.size > most {
		x.fail(c, proxy.ErrMetadataTooLarge(x.call.Service(), a.endpoint().Addr(), x.size, most))
		return
	}
	cn.slowKeepalive()
	x.setStage(asking, c.now)
	a.conn = cn
	cn.Open(&a.stream, x.request)
	if cn.Exhausted() {
		cn.pool.retire(cn, errExhausted)
	}
}

// send passes DATA of the request on. It returns false if that is queued, and told by OnSent.
func (a *attempt) send(frame []byte, end bool) (sent bool) {
	if a.over || a.stream.Ends() || !a.stream.IsOpen() && a.x.ended {
		return true // nobody wants it any more
	}
	if a.stream.Send(frame, end) {
		return true
	}
	a.stream.Queue(frame[h2.FrameHeaderLen:], end)
	a.x.owner.core.charge(a.x)
	a.stream.Push()
	return false
}

// sendTrailers passes the request's trailers on.
func (a *attempt) sendTrailers(fields []hpack.Field) {
	if a.over {
		return
	}
	switch a.stream.Headers(fields, true) {
	case session.FieldsQueued:
		a.x.owner.core.charge(a.x)
	case session.FieldsTooLong:
		a.OnTooLong(fields)
	}
}

// OnHeaders implements [session.StreamHandler].
func (a *attempt) OnHeaders(fields []hpack.Field, _ uint32, end bool) {
	x := a.x
	c := x.owner.core
	x.answered = true
	x.setStage(answering, c.now)
	c.dropRetryBuffer(x)
	x.begins(fields)
	if end {
		x.ends(fields)
		a.end(c)
	}
	x.headers(fields, end)
}

// OnInformational implements [session.StreamHandler].
func (a *attempt) OnInformational(fields []hpack.Field) { a.x.headers(fields, false) }

// OnTrailers implements [session.StreamHandler].
func (a *attempt) OnTrailers(fields []hpack.Field) {
	a.x.ends(fields)
	a.end(a.x.owner.core)
	a.x.headers(fields, true)
}

// OnData implements [session.StreamHandler].
func (a *attempt) OnData(frame []byte, end bool) {
	x := a.x
	if x.speaks.isWeb() {
		x.web.read(x.speaks, frame[h2.FrameHeaderLen:], &x.code)
	}
	if end {
		a.end(x.owner.core)
	}
	if end && x.speaks == grpcHTTP2 {
		x.respond(frame, false)
		a.broken(x.owner.core, errNoStatus)
		return
	}
	x.respond(frame, end)
}

// end is called when the whole response has come. What is left of the request nobody wants, and the backend's stream is
// free for others, however long the caller takes to read.
func (a *attempt) end(c *core) {
	if a.over = true; a.stream.IsOpen() {
		a.conn.serves()
	}
	a.stream.Close(h2.Cancel)
	a.stream.Discard()
	c.charge(a.x)
}

// OnSent implements [session.StreamHandler].
func (a *attempt) OnSent(n int) {
	before := min(n, a.credited)
	a.credited -= before
	a.x.owner.core.charge(a.x)
	a.x.caller.Credit(n - before)
}

// OnEnd implements [session.StreamHandler].
func (a *attempt) OnEnd() {}

// OnTooLong implements [session.StreamHandler].
func (a *attempt) OnTooLong(trailers []hpack.Field) {
	x, size := a.x, uint32(session.FieldsSize(trailers))
	x.fail(x.owner.core, proxy.ErrMetadataTooLarge(x.call.Service(), a.endpoint().Addr(), size, a.stream.PeerMaxHeaderList()))
}

// OnReset implements [session.StreamHandler].
func (a *attempt) OnReset(r session.Reset) { a.refused(a.x.owner.core, r) }

// OnBroken implements [session.StreamHandler].
func (a *attempt) OnBroken(err error) { a.broken(a.x.owner.core, err) }

// OnLost implements [session.StreamHandler].
func (a *attempt) OnLost(err error, written bool) {
	if c := a.x.owner.core; !a.retry(c, written) {
		a.lost(c, err)
	}
}

// retry begins anew at another endpoint, if the failed attempt may be followed by one. Began says that the backend may
// have begun to process the call.
func (a *attempt) retry(c *core, began bool) bool {
	x := a.x
	if x.ended || !x.caller.IsOpen() {
		return false
	}
	failure := retry.Failure{Began: began, Answered: x.answered, Replayable: x.replayable}
	if x.call.Failed(a.picked, failure) == retry.Fail {
		return false
	}
	unsent := a.stream.Queued() - a.credited
	a.stream.Restart()
	x.retryBuffer.AddTo(&a.stream)
	a.credited = x.retryBuffer.Len() - unsent
	if !a.stream.Ends() && x.caller.GotEnd() {
		a.stream.Queue(nil, true)
	}
	c.charge(x)
	a.pick(c)
	return true
}

// unqueue takes the attempt out of the queue for a stream, if it waits there.
func (a *attempt) unqueue(c *core) {
	if a.queued {
		a.conns().of(c).unqueue(a)
	}
}

// leaveQueue notes that the attempt waits for a stream no longer.
func (a *attempt) leaveQueue() {
	a.queued = false
	a.endpoint().CallUnqueued()
	a.conns().waiting.Add(-1)
}
