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

func (st *stream) enter(s stage, now time.Time) {
	if st.stage != s {
		st.stage, st.since = s, now
	}
}

// outOfTime is how a call fails whose deadline has run out.
func (st *stream) outOfTime(now time.Time) *proxy.Error {
	return proxy.ErrDeadline(st.call.Service(), st.deadline.Sub(st.began), now.Sub(st.since), st.doing())
}

// doing says what the call has been doing since it is in its stage.
func (st *stream) doing() string {
	if st.stage == picking {
		return st.call.Awaits()
	}
	endpoint := st.call.Endpoint()
	addr := endpoint.Addr()
	toBackend, toCaller := &st.half[backend], &st.half[caller]
	switch {
	case st.stage == queueing:
		return endpoint.Conn().(*destination).of(st.owner.core).awaits()
	case st.stage == asking && toBackend.queue.len > 0:
		return fmt.Sprintf("sending the request to %s, which does not take it: %d bytes of it wait", addr, toBackend.queue.len)
	case st.stage == asking && !toCaller.gotEnd:
		return fmt.Sprintf("waiting for the answer of %s, while the request has not ended", addr)
	case st.stage == asking:
		return "waiting for the answer of " + addr
	case toCaller.queue.len > 0:
		return fmt.Sprintf("passing on the answer of %s, which the caller does not take: %d bytes of it wait", addr, toCaller.queue.len)
	}
	return fmt.Sprintf("waiting for the rest of the answer of %s, which has begun", addr)
}

// awaits says what the calls in the queue wait for.
func (u *upstream) awaits() string {
	addr := u.destination.endpoint.Addr()
	switch {
	case len(u.conns) == 0:
		return "waiting for a connection to " + addr
	case !u.full():
		return fmt.Sprintf("waiting for %s to read the requests that it has been sent", addr)
	}
	allows := fmt.Sprint(u.conns[0].peer.MaxConcurrentStreams)
	if n := len(u.conns); n > 1 {
		allows += fmt.Sprintf(" on each of %d connections", n)
	}
	bound := ""
	if len(u.conns) >= u.conns[0].core.cfg.MaxConnections {
		bound = "; relay.max_endpoint_connections allows no more connections"
	}
	return fmt.Sprintf("waiting for a stream at %s, which allows %s and has %d waiting%s",
		addr, allows, u.destination.waiting.Load(), bound)
}
