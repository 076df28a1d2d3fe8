package relay

import "github.com/lbproxy/lbproxy/proxy/h2"

// check fails the test if the core's state is not sound.
func (w *world) check() {
	w.t.Helper()
	free := map[*stream]bool{}
	for st := w.core.free; st != nil; st = st.next {
		if free[st] {
			w.t.Fatal("a stream is free twice")
		}
		free[st] = true
		for s := range st.half {
			if st.half[s].conn != nil || st.half[s].listed || st.queued || st.timer >= 0 {
				w.t.Fatalf("a free stream is in use: %+v", st.half[s])
			}
		}
	}
	for _, p := range w.peers {
		w.checkConn(p.c, free)
	}
	for _, u := range w.upstreams {
		for _, st := range u.queue {
			if free[st] || !st.queued || st.half[backend].conn != nil {
				w.t.Fatal("a stream waits for a connection and is not in that state")
			}
		}
	}
	for st := range w.core.waiting {
		if free[st] || st.timer < 0 {
			w.t.Fatal("a free stream waits for an endpoint, or one waits without end")
		}
	}
	for i, st := range w.core.timers.h {
		if free[st] || st.timer != i {
			w.t.Fatal("a timer is on a free stream, or not where it says")
		}
	}
}

func (w *world) checkConn(c *conn, free map[*stream]bool) {
	w.t.Helper()
	if c.dead && (len(c.streams) > 0 || c.blocked.first != nil) {
		w.t.Fatal("a dead connection has streams")
	}
	for id, st := range c.streams {
		w.seen[st] = struct{}{}
		h := &st.half[c.side]
		switch {
		case free[st]:
			w.t.Fatalf("stream %d is free and live", id)
		case h.conn != c || h.id != id:
			w.t.Fatalf("stream %d does not know its connection", id)
		case h.send < -h2.MaxWindow:
			w.t.Fatalf("stream %d: window %d", id, h.send)
		case h.sent > len(h.queue):
			w.t.Fatalf("stream %d: %d of %d bytes sent", id, h.sent, len(h.queue))
		case h.recv.Held() < 0:
			w.t.Fatalf("stream %d: more was given back than was received: %d", id, h.recv.Held())
		case !h.listed && !h.done && len(h.queue) > h.sent && h.send > 0:
			w.t.Fatalf("stream %d could send and is not in line", id)
		case !h.listed && !h.done && len(h.queue) == h.sent && h.last != nothing:
			w.t.Fatalf("stream %d could end and is not in line", id)
		}
		if waiting := len(h.queue) - h.sent; waiting > backendStreamWindow+maxReplay {
			w.t.Fatalf("stream %d holds %d bytes", id, waiting)
		}
		if cap(h.queue) > 8*backendStreamWindow {
			w.t.Fatalf("stream %d keeps %d bytes to hold %d", id, cap(h.queue), len(h.queue)-h.sent)
		}
	}
	if c.recv.Held() != 0 {
		w.t.Fatalf("the connection's window is short of %d bytes", c.recv.Held())
	}
	n := 0
	for st := c.blocked.first; st != nil; st = st.half[c.side].after {
		h := &st.half[c.side]
		if n++; n > len(c.streams) || c.streams[h.id] != st || !h.listed {
			w.t.Fatal("a stream that is not live stands in line")
		}
		if h.done || len(h.queue) == h.sent && h.last == nothing {
			w.t.Fatalf("stream %d stands in line with nothing to send", h.id)
		}
	}
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
	c := w.core
	if len(c.callers) != 0 || len(c.timers.h) != 0 || len(c.waiting) != 0 {
		w.t.Errorf("left: %d callers, %d timers, %d waiting", len(c.callers), len(c.timers.h), len(c.waiting))
	}
	for addr, u := range w.upstreams {
		if len(u.queue) != 0 || u.conn != nil {
			w.t.Errorf("left at %s: %d queued", addr, len(u.queue))
		}
	}
	for st := c.free; st != nil; st = st.next {
		delete(w.seen, st)
	}
	if len(w.seen) != 0 {
		w.t.Errorf("%d streams are neither live nor free", len(w.seen))
	}
}
