package relay

import (
	"fmt"
	"time"

	"github.com/lbproxy/lbproxy/proxy"
)

// stage is how far a call has come.
type stage uint8

const (
	picking   stage = iota // it waits for an instance
	queueing               // for a stream there
	asking                 // its request is sent, and no answer has come
	answering              // the answer has begun
)

func (x *exchange) setStage(s stage, now time.Time) {
	if x.stage != s {
		x.stage, x.since = s, now
	}
}

// outOfTime is how a call fails whose deadline has run out.
func (x *exchange) outOfTime(now time.Time) *proxy.Error {
	return proxy.ErrDeadline(x.call.Service(), x.deadline.Sub(x.began), now.Sub(x.since), x.doing())
}

// doing says what the call has been doing since it is in its stage.
func (x *exchange) doing() string {
	if x.stage == picking {
		return x.call.Awaits()
	}
	a := x.lead()
	addr := a.endpoint().Addr()
	switch {
	case x.stage == queueing:
		return a.conns().of(x.owner.core).awaits()
	case x.stage == asking && a.stream.Queued() > 0:
		return fmt.Sprintf("sending the request to %s, which does not take it: %d bytes of it wait", addr, a.stream.Queued())
	case x.stage == asking && !x.caller.GotEnd():
		return fmt.Sprintf("waiting for the answer of %s, while the request has not ended", addr)
	case x.stage == asking:
		return "waiting for the answer of " + addr
	case x.caller.Queued() > 0:
		return fmt.Sprintf("passing on the answer of %s, which the caller does not take: %d bytes of it wait", addr, x.caller.Queued())
	}
	return fmt.Sprintf("waiting for the rest of the answer of %s, which has begun", addr)
}

// awaits says what the calls in the queue wait for.
func (p *connPool) awaits() string {
	addr := p.all.endpoint.Addr()
	switch {
	case len(p.conns) == 0:
		return "waiting for a connection to " + addr
	case !p.full():
		return fmt.Sprintf("waiting for %s to read the requests that it has been sent", addr)
	}
	allows := fmt.Sprint(p.conns[0].PeerMaxStreams())
	if n := len(p.conns); n > 1 {
		allows += fmt.Sprintf(" on each of %d connections", n)
	}
	bound := ""
	if len(p.conns) >= p.conns[0].core.cfg.MaxConnections {
		bound = "; relay.max_endpoint_connections allows no more connections"
	}
	return fmt.Sprintf("waiting for a stream at %s, which allows %s and has %d waiting%s",
		addr, allows, p.all.waiting.Load(), bound)
}
