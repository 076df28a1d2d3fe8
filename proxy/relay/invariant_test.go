package relay

import (
	"github.com/lbproxy/lbproxy/proxy/h2/session"
)

// check fails the test if the core's state is not sound.
func (w *world) check() {
	w.t.Helper()
	audit := new(session.Audit)
	ok := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	ok(w.core.sessions.Check(audit))
	free := w.checkFree()
	calls := 0
	for _, p := range w.peers {
		ok(p.c.Check(audit))
		for s := range p.c.Streams() {
			w.checkStream(p.c, s, free)
		}
		calls += w.checkCalls(p.c, audit, ok)
	}
	for _, pool := range w.pools {
		ok(pool.queue.Check(func(s *session.Stream) bool {
			a := attemptOf(s)
			return !free[a] && a.queued && !s.IsOpen()
		}))
	}
	for a := range w.core.waiting {
		if free[a] || a.x.timer.place == 0 {
			w.t.Fatal("a free attempt waits for an endpoint, or one waits without end")
		}
	}
	for i, timer := range w.core.timers.h {
		if timer.place != i+1 {
			w.t.Fatal("a timer is not where it says")
		}
	}
	w.checkMemory(audit, calls)
}

// checkFree fails the test if what is free is in use, and returns the attempts that are.
func (w *world) checkFree() map[any]bool {
	w.t.Helper()
	free := map[any]bool{}
	for x := w.core.free; x != nil; x = x.next {
		if free[x] || len(x.attempts) > 0 || x.caller.IsOpen() || x.timer.place > 0 || x.charged != 0 {
			w.t.Fatalf("a free exchange is in use, or free twice: %+v", x)
		}
		free[x] = true
	}
	for a := w.core.attempts; a != nil; a = a.next {
		if free[a] || a.x != nil || a.queued || a.stream.IsOpen() {
			w.t.Fatalf("a free attempt is in use, or free twice: %+v", a)
		}
		free[a] = true
	}
	return free
}

func (w *world) checkStream(c *conn, s *session.Stream, free map[any]bool) {
	w.t.Helper()
	if free[s.Handler()] {
		w.t.Fatalf("stream %d is free and live", s.ID())
	}
	if x, ok := s.Handler().(*exchange); ok {
		w.seen[x] = struct{}{}
		if x.owner != c {
			w.t.Fatalf("stream %d is another connection's", s.ID())
		}
	}
}

// checkCalls fails the test if a caller's connection is not charged with what its calls hold, and returns that.
func (w *world) checkCalls(c *conn, audit *session.Audit, ok func(error)) (held int) {
	w.t.Helper()
	if c.side == caller {
		for s := range c.Streams() {
			x := exchangeOf(s)
			held += x.holds()
			ok(x.caller.Check(audit))
			ok(x.retryBuffer.Check(audit))
			for _, a := range x.attempts {
				ok(a.stream.Check(audit))
			}
		}
	}
	if c.held != held {
		w.t.Fatalf("a connection is charged with %d bytes for its calls, which hold %d", c.held, held)
	}
	return held
}

// checkMemory fails the test if what is charged is not what is held.
func (w *world) checkMemory(audit *session.Audit, calls int) {
	w.t.Helper()
	m := &w.core.memory
	if audit.Remembered != m.remembered {
		w.t.Fatalf("%d bytes are for closed streams, %d are counted", audit.Remembered, m.remembered)
	}
	if audit.Grown != m.grown {
		w.t.Fatalf("windows have grown by %d bytes, %d are counted", audit.Grown, m.grown)
	}
	if used := calls + audit.Held; used != m.used {
		w.t.Fatalf("%d bytes are charged, %d are held", m.used, used)
	}
	if m.exceeded() {
		w.t.Fatalf("%d bytes are held, %d are allowed", m.used, m.limit)
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
		if pool.queue.Len() != 0 || len(pool.conns) != 0 {
			w.t.Errorf("left at %s: %d queued, %d connections", addr, pool.queue.Len(), len(pool.conns))
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
