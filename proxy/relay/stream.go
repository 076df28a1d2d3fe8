package relay

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

const (
	// maxPicks is how many endpoints may be tried for a call that none has begun to process.
	maxPicks = 3
	// maxReplay is how much of a request is kept to be sent again, until the backend answers.
	maxReplay = 64 << 10
)

// stream is one call: a stream on the caller's connection, and, once an endpoint has been picked, one on the
// backend's.
type stream struct {
	call  proxy.Call
	half  [2]half // by side
	owner *conn   // the caller's connection, as long as the call lasts
	began time.Time

	request []hpack.Field // the caller's field block
	size    uint32        // of what is sent of it, as SETTINGS_MAX_HEADER_LIST_SIZE counts
	body    queue         // DATA of the request, to be sent again
	replay  bool          // body holds all of it

	trailers int // the size of those that are kept
	charged  int // for what the call holds

	retries  int  // so far
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

	next *stream // when it is free
}

// half is one end of a call.
type half struct {
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

	turn          *turn // in which line it stands: conn.blocked, or upstream.queue; nil for none
	before, after *stream
}

// last is what ends the sending on a stream.
type last uint8

const (
	nothing last = iota
	endStream
	trailers
)

// pick chooses an endpoint and opens the call there, or waits for one.
func (st *stream) pick(c *core) {
	again, err := st.call.TryPick(c.now)
	switch {
	case err != nil:
		st.fail(c, err)
		return
	case again != nil:
		st.await(c, again)
		return
	}
	delete(c.waiting, st)
	st.call.Endpoint().Conn().(*destination).of(c).take(c, st)
	// Perhaps it has ended already.
}

func (st *stream) startWaiting(c *core) {
	if st.giveUp.IsZero() {
		st.giveUp = c.now.Add(st.call.WaitTimeout())
		st.setTimer(c)
	}
}

func (st *stream) stopWaiting(c *core) {
	st.giveUp = time.Time{}
	st.setTimer(c)
}

func (st *stream) await(c *core, again <-chan struct{}) {
	st.enter(picking, c.now)
	st.startWaiting(c)
	c.waiting[st] = struct{}{}
	c.wishes.wakeWhen(again)
}

func (st *stream) setTimer(c *core) {
	at := st.deadline
	if !st.giveUp.IsZero() && (at.IsZero() || st.giveUp.Before(at)) {
		at = st.giveUp
	}
	if !at.IsZero() || st.timer.place > 0 {
		c.set(&st.timer, at)
	}
}

func (st *stream) timedOut(c *core) {
	c.blame = st.owner
	if !st.deadline.IsZero() && !c.now.Before(st.deadline) {
		st.fail(c, st.outOfTime(c.now))
		return
	}
	st.fail(c, st.call.WaitedTooLong())
}

// open sends the request, as far as it has come, on a connection of the picked endpoint.
func (st *stream) open(cn *conn) {
	st.age(cn.core)
	if st.size > cn.peer.MaxHeaderListSize {
		st.fail(cn.core, proxy.ErrMetadataTooLarge(st.call.Service(), st.call.Endpoint().Addr(), st.size, cn.peer.MaxHeaderListSize))
		return
	}
	h := &st.half[backend]
	h.conn, h.id = cn, cn.nextID
	h.send, h.recv = h2.SendWindow(cn.peer.InitialWindowSize), h2.NewReceiveWindow(streamWindow, updateLump)
	h.expected = -1
	cn.nextID += 2
	cn.streams[h.id] = st
	cn.watch(st.call.Keepalive())
	noBody := h.queue.len == 0 && h.last == endStream
	st.enter(asking, cn.core.now)
	cn.writeRequest(st, noBody)
	cn.widen(h)
	h.headed = true
	if noBody {
		h.done = true
	} else {
		cn.unblock(st)
		cn.pump()
	}
	if cn.nextID > h2.MaxStreamID {
		cn.upstream.retire(cn, errExhausted)
	}
}

// again gives the call to another endpoint, if its request can be sent again and none has processed it.
func (st *stream) again(c *core) bool {
	if st.answered || !st.replay || st.retries == maxPicks-1 || st.ended || st.half[caller].conn == nil {
		return false
	}
	st.retries++
	st.call.Retry()
	h := &st.half[backend]
	unsent := h.queue.len - h.credited
	c.storage.clear(&h.queue)
	c.forgetGrowth(h)
	*h = half{credited: st.body.len - unsent, trailers: h.trailers, last: h.last}
	for b := st.body.first; b != nil; b = b.next {
		c.storage.add(&h.queue, b.data)
	}
	if h.last == nothing && st.half[caller].gotEnd {
		h.last = endStream
	}
	c.charge(st)
	st.pick(c)
	return true
}

// relay passes DATA on from one side to the other. It stands in frame, behind room for a frame's header.
func (st *stream) relay(from side, frame []byte, end bool) {
	data := frame[h2.FrameHeaderLen:]
	if from == caller {
		st.keep(data)
	}
	if from == backend && end && st.speaks == grpcHTTP2 {
		st.relay(from, frame, false)
		st.broken(st.owner.core, errNoStatus)
		return
	}
	out := &st.half[from.other()]
	if out.done || out.last != nothing || out.conn == nil && st.ended {
		st.credit(from, len(data)) // nobody wants it any more
		return
	}
	if end {
		out.last = endStream
	}
	if out.conn != nil && out.queue.len == 0 && out.conn.writeData(st, frame, end) {
		st.credit(from, len(data))
		if end {
			out.done = true
			st.settle()
		}
		return
	}
	st.owner.core.enqueue(st, out, data)
	if out.conn != nil {
		out.conn.unblock(st)
		out.conn.pump()
	}
}

// enqueue keeps data until it can be sent.
func (c *core) enqueue(st *stream, h *half, data []byte) {
	c.storage.add(&h.queue, data)
	c.charge(st)
}

// discardQueue lets go of what will not be sent.
func (c *core) discardQueue(st *stream, h *half) {
	c.storage.clear(&h.queue)
	c.charge(st)
}

// keep keeps the request for another endpoint.
func (st *stream) keep(data []byte) {
	if !st.replay {
		return
	}
	c := st.owner.core
	if st.answered || st.body.len+len(data) > maxReplay || c.memory.scarce() {
		c.unkeep(st)
		return
	}
	had := st.body.cap
	c.storage.add(&st.body, data)
	if st.body.cap != had {
		c.charge(st)
	}
}

// unkeep lets go of what was kept of a request, which will not be sent again.
func (c *core) unkeep(st *stream) {
	st.replay = false
	if st.body.first != nil {
		c.storage.clear(&st.body)
		c.charge(st)
	}
}

// credit lets a peer send n bytes more, because the other side has taken as many.
func (st *stream) credit(to side, n int) {
	h := &st.half[to]
	if h.conn == nil || h.gotEnd || n == 0 {
		return
	}
	if h.recv.Release(n) {
		h.conn.resize(h, h.conn.bdp.next(h, h.conn.core.now))
	}
}

// headers passes a field block on that is not the request's first.
func (st *stream) headers(from side, fields []hpack.Field, end bool) {
	out := &st.half[from.other()]
	if out.done || out.last != nothing {
		return
	}
	if out.conn == nil || out.queue.len > 0 {
		out.trailers, out.last = append(cleared(out.trailers), fields...), trailers
		st.trailers += fieldsSize(fields)
		st.owner.core.charge(st)
		return
	}
	if uint32(fieldsSize(fields)) > out.conn.peer.MaxHeaderListSize {
		st.tooLong(from.other(), fields, end)
		return
	}
	out.conn.writeHeaders(out.id, fields, end)
	out.headed = from == caller || st.answered || end // informational responses are none
	if end {
		out.last, out.done = trailers, true
		st.settle()
	}
}

// tooLong is called for a field block that is longer than its receiver takes.
func (st *stream) tooLong(to side, fields []hpack.Field, end bool) {
	c := st.owner.core
	size, most := uint32(fieldsSize(fields)), st.half[to].conn.peer.MaxHeaderListSize
	switch {
	case st.ended: // a status of the proxy's own
		if fields = shortened(fields, int(most)); fields == nil {
			st.abort(c)
			return
		}
		st.headers(backend, fields, end)
	case to == backend:
		st.fail(c, proxy.ErrMetadataTooLarge(st.call.Service(), st.call.Endpoint().Addr(), size, most))
	case st.answered:
		st.fail(c, proxy.ErrAnswerTooLarge(st.call.Service(), st.call.Endpoint().Addr(), size, most))
	default: // an informational response, which callers can do without
	}
}
