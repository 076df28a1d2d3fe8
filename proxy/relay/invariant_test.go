package relay

import (
	"unsafe"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

// check fails the test if the core's state is not sound.
func (w *world) check() {
	w.t.Helper()
	free := map[*exchange]bool{}
	for x := w.core.free; x != nil; x = x.next {
		if free[x] {
			w.t.Fatal("a stream is free twice")
		}
		free[x] = true
		for s := range x.streams {
			if x.streams[s].conn != nil || x.streams[s].flow != nil || x.queued || x.timer.place > 0 || x.charged != 0 {
				w.t.Fatalf("a free stream is in use: %+v", x.streams[s])
			}
		}
	}
	for _, p := range w.peers {
		w.checkConn(p.c, free)
	}
	for _, pool := range w.pools {
		w.checkLine(&pool.queue, func(x *exchange) bool { return !free[x] && x.queued && x.streams[backend].conn == nil })
	}
	for x := range w.core.waiting {
		if free[x] || x.timer.place == 0 {
			w.t.Fatal("a free stream waits for an endpoint, or one waits without end")
		}
	}
	for i, timer := range w.core.timers.h {
		if timer.place != i+1 {
			w.t.Fatal("a timer is not where it says")
		}
	}
	w.checkMemory()
}

// checkMemory fails the test if what is charged is not what is held.
func (w *world) checkMemory() {
	w.t.Helper()
	used, grown, crossings := 0, 0, 0
	buffers := map[*byte]bool{}
	own := func(b *block) {
		if at := unsafe.SliceData(b.data); buffers[at] {
			w.t.Fatal("two hold the same block")
		} else {
			buffers[at] = true
		}
	}
	ownAll := func(q *queue) {
		n, size := -q.sent, 0
		for b := q.first; b != nil; b = b.next {
			own(b)
			n += len(b.data)
			size += cap(b.data)
		}
		if n != q.len || size != q.cap || (q.last == nil) != (q.first == nil) {
			w.t.Fatalf("a queue of %d bytes in %d says it has %d in %d", n, size, q.len, q.cap)
		}
	}
	for _, free := range w.core.storage.free {
		for b := free; b != nil; b = b.next {
			own(b)
		}
	}
	for _, p := range w.peers {
		c, held := p.c, 0
		for _, x := range c.streams {
			if x.owner == c {
				held += x.holds()
				for i := range x.streams {
					ownAll(&x.streams[i].queue)
					grown += x.streams[i].recv.Grown()
				}
				ownAll(&x.retryBuffer)
			}
		}
		if c.held != held {
			w.t.Fatalf("a connection is charged with %d bytes for its calls, which hold %d", c.held, held)
		}
		blocks, pieced := 0, 0
		for _, p := range append(c.flight.pieces[:len(c.flight.pieces):len(c.flight.pieces)], c.pieces...) {
			if p.block == nil {
				w.t.Fatal("something is still borrowed")
			}
			own(p.block)
			blocks += cap(p.block.data)
		}
		for _, p := range c.pieces {
			pieced += len(p.data)
		}
		if blocks != c.blocks || pieced != c.pieced {
			w.t.Fatalf("pieces of %d bytes in blocks of %d are counted as %d in %d", pieced, blocks, c.pieced, c.blocks)
		}
		left := 0
		if c.unparsed != nil {
			own(c.unparsed)
			left = cap(c.unparsed.data)
		}
		if want := cap(c.out) + cap(c.flight.frames) + blocks + cap(c.block) + left; !c.dead && c.charged != want || c.dead && c.charged != 0 {
			w.t.Fatalf("a connection is charged with %d bytes and holds %d", c.charged, want)
		}
		used += held + c.charged
		if c.crossings != nil {
			crossings += len(c.crossings.table)
		}
	}
	if crossings != w.core.memory.crossings {
		w.t.Fatalf("there is room for %d crossings, %d are counted", crossings, w.core.memory.crossings)
	}
	if grown != w.core.memory.grown {
		w.t.Fatalf("windows have grown by %d bytes, %d are counted", grown, w.core.memory.grown)
	}
	if used != w.core.memory.used {
		w.t.Fatalf("%d bytes are charged, %d are held", w.core.memory.used, used)
	}
	if w.core.memory.exceeded() {
		w.t.Fatalf("%d bytes are held, %d are allowed", used, w.core.memory.limit)
	}
}

// checkLine fails the test if a line is not sound, or one that stands in it does not belong there.
func (w *world) checkLine(q *fairQueue, belongs func(*exchange) bool) {
	w.t.Helper()
	n := 0
	for f := q.first; f != nil; f = f.after {
		if f.first == nil || q.flows[f.owner] != f {
			w.t.Fatal("an owner that has nothing in line gets a turn")
		}
		for x := f.first; x != nil; x = x.streams[q.side].after {
			if n++; x.streams[q.side].flow != f || x.owner != f.owner || !belongs(x) {
				w.t.Fatalf("a stream stands in line that does not belong there: %+v", x.streams[q.side])
			}
		}
	}
	if n != q.len || len(q.flows) > n {
		w.t.Fatalf("a line of %d says it has %d, of %d owners", n, q.len, len(q.flows))
	}
}

func (w *world) checkConn(c *conn, free map[*exchange]bool) {
	w.t.Helper()
	if c.dead && (len(c.streams) > 0 || c.blocked.len > 0 || c.crossings != nil) {
		w.t.Fatal("a dead connection has streams")
	}
	if c.crossings != nil && c.crossings.expiry.place == 0 {
		w.t.Fatal("streams that have ended are remembered for ever")
	}
	for id, x := range c.streams {
		w.seen[x] = struct{}{}
		st := &x.streams[c.side]
		switch {
		case free[x]:
			w.t.Fatalf("stream %d is free and live", id)
		case st.conn != c || st.id != id:
			w.t.Fatalf("stream %d does not know its connection", id)
		case st.send < -h2.MaxWindow:
			w.t.Fatalf("stream %d: window %d", id, st.send)
		case st.recv.Held() < 0:
			w.t.Fatalf("stream %d: more was given back than was received: %d", id, st.recv.Held())
		case st.flow == nil && !st.done && st.queue.len > 0 && st.send > 0:
			w.t.Fatalf("stream %d could send and is not in line", id)
		case st.flow == nil && !st.done && st.queue.len == 0 && st.last != nothing:
			w.t.Fatalf("stream %d could end and is not in line", id)
		}
		if st.queue.len > maxStreamWindow+maxRetryBuffer {
			w.t.Fatalf("stream %d holds %d bytes", id, st.queue.len)
		}
		if st.queue.cap > 2*(st.queue.len+maxBlock) {
			w.t.Fatalf("stream %d keeps %d bytes to hold %d", id, st.queue.cap, st.queue.len)
		}
	}
	if c.recv.Held() != 0 {
		w.t.Fatalf("the connection's window is short of %d bytes", c.recv.Held())
	}
	w.checkLine(&c.blocked, func(x *exchange) bool {
		st := &x.streams[c.side]
		return c.streams[st.id] == x && !st.done && (st.queue.len > 0 || st.last != nothing)
	})
}

// checkEmpty fails the test if anything is left of the calls after their connections.
func (w *world) checkEmpty() {
	w.t.Helper()
	status, _ := w.services.ServiceStatus(service)
	if status.InFlight != 0 {
		w.t.Errorf("%d calls are in flight", status.InFlight)
	}
	for _, e := range status.Instances {
		if e.InFlight != 0 {
			w.t.Errorf("%d calls are in flight at %s", e.InFlight, e.Addr)
		}
	}
	if n := w.metric("lbproxy_endpoint_waiting"); n != 0 {
		w.t.Errorf("%v calls wait for a stream", n)
	}
	if n := w.metric("lbproxy_connections"); n != 0 {
		w.t.Errorf("%v connections are counted", n)
	}
	c := w.core
	for _, pool := range w.pools {
		c.timers.remove(&pool.pause) // an endpoint's, which lives on
	}
	if len(c.conns) != 0 || len(c.timers.h) != 0 || len(c.waiting) != 0 {
		w.t.Errorf("left: %d connections, %d timers, %d waiting", len(c.conns), len(c.timers.h), len(c.waiting))
	}
	for addr, pool := range w.pools {
		if pool.queue.len != 0 || len(pool.conns) != 0 {
			w.t.Errorf("left at %s: %d queued, %d connections", addr, pool.queue.len, len(pool.conns))
		}
	}
	for x := c.free; x != nil; x = x.next {
		delete(w.seen, x)
	}
	if c.calls != 0 {
		w.t.Errorf("%d calls are still counted", c.calls)
	}
	if c.memory.used != 0 {
		w.t.Errorf("%d bytes are still charged", c.memory.used)
	}
	if len(w.seen) != 0 && c.frees < maxFree {
		w.t.Errorf("%d streams are neither live nor free", len(w.seen))
	}
}
