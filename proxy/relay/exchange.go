package relay

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
	"github.com/lbproxy/lbproxy/proxy/retry"
)

// maxRetryBuffer is how much of a request is kept to be sent again, until the backend answers.
const maxRetryBuffer = 64 << 10

// exchange is one call: a stream on the caller's connection, and, once an endpoint has been picked, one on the
// backend's.
type exchange struct {
	call    proxy.Call
	attempt *proxy.Attempt // at the endpoint that was picked last; nil while the call waits for one
	streams [2]stream      // by side
	owner   *conn          // the caller's connection, as long as the call lasts
	began   time.Time

	request     []hpack.Field // the caller's field block
	size        uint32        // of what is sent of it, as SETTINGS_MAX_HEADER_LIST_SIZE counts
	retryBuffer queue         // DATA of the request, to be sent again
	replayable  bool          // retryBuffer holds all of it

	trailers int // the size of those that are kept
	charged  int // for what the call holds

	queued   bool // waits for a stream on a connection of its endpoint
	answered bool // the response has begun
	ended    bool // the call has ended, for the policy

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

// stream is one end of a call, on one connection.
type stream struct {
	conn     *conn // nil until the stream is opened there and after it has ended there
	id       uint32
	send     h2.SendWindow
	recv     h2.ReceiveWindow
	turnedAt int64 // when the last turn of recv began, see time.Time.UnixNano

	queue    queue // DATA for the peer that its windows have no room for
	credited int   // how much of it was sent before, to another endpoint
	trailers []hpack.Field
	last     last // what follows the queue

	headed   bool  // HEADERS have been sent
	done     bool  // END_STREAM has been sent
	gotEnd   bool  // END_STREAM has come
	expected int64 // bytes of DATA still to come, by content-length; negative if it is not known

	flow          *flow // in which queue it waits: conn.blocked, or connPool.queue; nil for none
	before, after *exchange
}

// last is what ends the sending on a stream.
type last uint8

const (
	nothing last = iota
	endStream
	trailers
)

// pick chooses an endpoint and opens the call there, or waits for one.
func (x *exchange) pick(c *core) {
	attempt, again, err := x.call.TryPick(c.now)
	x.attempt = attempt
	switch {
	case err != nil:
		x.fail(c, err)
		return
	case again != nil:
		x.await(c, again)
		return
	}
	delete(c.waiting, x)
	x.conns().of(c).assign(c, x)
	// Perhaps it has ended already.
}

func (x *exchange) endpoint() *picker.Endpoint { return x.attempt.Endpoint() }

// conns is the connections to the endpoint.
func (x *exchange) conns() *endpointConns { return x.endpoint().Conn().(*endpointConns) }

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

func (x *exchange) await(c *core, again <-chan struct{}) {
	x.setStage(picking, c.now)
	x.startWaiting(c)
	c.waiting[x] = struct{}{}
	c.host.wakeWhen(again)
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
	c.current = x.owner
	if !x.deadline.IsZero() && !c.now.Before(x.deadline) {
		x.fail(c, x.outOfTime(c.now))
		return
	}
	x.fail(c, x.call.WaitedTooLong())
}

// open sends the request, as far as it has come, on a connection of the picked endpoint.
func (x *exchange) open(cn *conn) {
	x.age(cn.core)
	if x.size > cn.peer.MaxHeaderListSize {
		x.fail(cn.core, proxy.ErrMetadataTooLarge(x.call.Service(), x.endpoint().Addr(), x.size, cn.peer.MaxHeaderListSize))
		return
	}
	st := &x.streams[backend]
	st.conn, st.id = cn, cn.nextID
	st.send, st.recv = h2.SendWindow(cn.peer.InitialWindowSize), h2.NewReceiveWindow(streamWindow, updateLump)
	st.expected = -1
	cn.nextID += 2
	cn.streams[st.id] = x
	cn.keepAlive()
	noBody := st.queue.len == 0 && st.last == endStream
	x.setStage(asking, cn.core.now)
	cn.writeRequest(x, noBody)
	cn.widen(st)
	st.headed = true
	if noBody {
		st.done = true
	} else {
		cn.unblock(x)
		cn.pump()
	}
	if cn.nextID > h2.MaxStreamID {
		cn.pool.retire(cn, errExhausted)
	}
}

// retry begins another attempt, if the one that has failed may be followed by one. Began says that the backend may have
// begun to process the call.
func (x *exchange) retry(c *core, began bool) bool {
	if x.ended || x.streams[caller].conn == nil {
		return false
	}
	failure := retry.Failure{Began: began, Answered: x.answered, Replayable: x.replayable}
	if x.call.Failed(x.attempt, failure) == retry.Fail {
		return false
	}
	st := &x.streams[backend]
	unsent := st.queue.len - st.credited
	c.storage.clear(&st.queue)
	c.forgetGrowth(st)
	*st = stream{credited: x.retryBuffer.len - unsent, trailers: st.trailers, last: st.last}
	for b := x.retryBuffer.first; b != nil; b = b.next {
		c.storage.add(&st.queue, b.data)
	}
	if st.last == nothing && x.streams[caller].gotEnd {
		st.last = endStream
	}
	c.charge(x)
	x.pick(c)
	return true
}

// relay passes DATA on from one side to the other. It stands in frame, behind room for a frame's header.
func (x *exchange) relay(from side, frame []byte, end bool) {
	data := frame[h2.FrameHeaderLen:]
	if from == caller {
		x.bufferRetry(data)
	}
	if from == backend && end && x.speaks == grpcHTTP2 {
		x.relay(from, frame, false)
		x.broken(x.owner.core, errNoStatus)
		return
	}
	out := &x.streams[from.other()]
	if out.done || out.last != nothing || out.conn == nil && x.ended {
		x.credit(from, len(data)) // nobody wants it any more
		return
	}
	if end {
		out.last = endStream
	}
	if out.conn != nil && out.queue.len == 0 && out.conn.writeData(x, frame, end) {
		x.credit(from, len(data))
		if end {
			out.done = true
			x.endIfDelivered()
		}
		return
	}
	x.owner.core.enqueue(x, out, data)
	if out.conn != nil {
		out.conn.unblock(x)
		out.conn.pump()
	}
}

// enqueue keeps data until it can be sent.
func (c *core) enqueue(x *exchange, st *stream, data []byte) {
	c.storage.add(&st.queue, data)
	c.charge(x)
}

// discardQueue lets go of what will not be sent.
func (c *core) discardQueue(x *exchange, st *stream) {
	c.storage.clear(&st.queue)
	c.charge(x)
}

// bufferRetry keeps the request for another endpoint.
func (x *exchange) bufferRetry(data []byte) {
	if !x.replayable {
		return
	}
	c := x.owner.core
	if x.answered || x.retryBuffer.len+len(data) > maxRetryBuffer || c.memory.scarce() {
		c.dropRetryBuffer(x)
		return
	}
	had := x.retryBuffer.cap
	c.storage.add(&x.retryBuffer, data)
	if x.retryBuffer.cap != had {
		c.charge(x)
	}
}

// dropRetryBuffer lets go of what was kept of a request, which will not be sent again.
func (c *core) dropRetryBuffer(x *exchange) {
	x.replayable = false
	if x.retryBuffer.first != nil {
		c.storage.clear(&x.retryBuffer)
		c.charge(x)
	}
}

// credit lets a peer send n bytes more, because the other side has taken as many.
func (x *exchange) credit(to side, n int) {
	st := &x.streams[to]
	if st.conn == nil || st.gotEnd || n == 0 {
		return
	}
	if st.recv.Release(n) {
		st.conn.resize(st, st.conn.bdp.next(st, st.conn.core.now))
	}
}

// headers passes a field block on that is not the request's first.
func (x *exchange) headers(from side, fields []hpack.Field, end bool) {
	out := &x.streams[from.other()]
	if out.done || out.last != nothing {
		return
	}
	if out.conn == nil || out.queue.len > 0 {
		out.trailers, out.last = append(cleared(out.trailers), fields...), trailers
		x.trailers += fieldsSize(fields)
		x.owner.core.charge(x)
		return
	}
	if uint32(fieldsSize(fields)) > out.conn.peer.MaxHeaderListSize {
		x.tooLong(from.other(), fields, end)
		return
	}
	out.conn.writeHeaders(out.id, fields, end)
	out.headed = from == caller || x.answered || end // informational responses are none
	if end {
		out.last, out.done = trailers, true
		x.endIfDelivered()
	}
}

// tooLong is called for a field block that is longer than its receiver takes.
func (x *exchange) tooLong(to side, fields []hpack.Field, end bool) {
	c := x.owner.core
	size, most := uint32(fieldsSize(fields)), x.streams[to].conn.peer.MaxHeaderListSize
	switch {
	case x.ended: // a status of the proxy's own
		if fields = shortened(fields, int(most)); fields == nil {
			x.abort(c)
			return
		}
		x.headers(backend, fields, end)
	case to == backend:
		x.fail(c, proxy.ErrMetadataTooLarge(x.call.Service(), x.endpoint().Addr(), size, most))
	case x.answered:
		x.fail(c, proxy.ErrAnswerTooLarge(x.call.Service(), x.endpoint().Addr(), size, most))
	default: // an informational response, which callers can do without
	}
}
