package relay

import (
	"net"
	"testing"
	"time"
)

func TestRenewal(t *testing.T) {
	t.Run("of a registration", func(t *testing.T) {
		inSimulatedTime(t, 2, always(stays(300*time.Millisecond)), func(x *connecting) {
			time.Sleep(time.Second)
			x.want("ready", "")
			x.register(1, 2) // another weight, say
			time.Sleep(time.Second)
			if n := x.dials(); n != 2 {
				t.Errorf("%d connections after a change, want 2", n)
			}
			x.register(3, 3)
			x.want("ready", "")
			if n := x.dials(); n != 4 || x.opened() != 4 {
				t.Errorf("%d connections for a new registration, of which %d are open, want 4", n, x.opened())
			}
			time.Sleep(2 * time.Second)
			x.want("ready", "")
			if x.dials() != 4 || x.opened() != 2 {
				t.Errorf("%d connections for a new registration, of which %d are open, want 4, 2", x.dials(), x.opened())
			}
			if n := x.logs.FilterMessageSnippet("lost").Len(); n != 0 {
				t.Errorf("connections are lost: %v", x.logs.All())
			}
		})
	})
	t.Run("that fails for some time", func(t *testing.T) {
		inSimulatedTime(t, 1, func(n int) backendEnd {
			if n == 0 || n == 4 {
				return stays(0)
			}
			return nil
		}, func(x *connecting) {
			x.register(3, 3)
			x.want("ready", "connection refused")
			time.Sleep(time.Minute)
			x.want("ready", "connection refused")
			if x.dials() != 5 || x.opened() != 1 {
				t.Errorf("%d connections, of which %d are open, want 5, 1", x.dials(), x.opened())
			}
		})
	})
	t.Run("while the connection is lost", func(t *testing.T) {
		inSimulatedTime(t, 1, func(n int) backendEnd {
			switch n {
			case 0:
				return func(c net.Conn) { greet(c, 0); time.Sleep(10 * time.Second) }
			case 1:
				return stays(time.Hour)
			}
			return stays(0)
		}, func(x *connecting) {
			time.Sleep(9 * time.Second)
			x.register(3, 3)
			x.want("ready", "")
			time.Sleep(1100 * time.Millisecond)
			x.want("ready", "EOF")
			if x.dials() != 3 {
				t.Errorf("%d connections, want 3", x.dials())
			}
			time.Sleep(time.Hour)
			if x.opened() != 1 {
				t.Errorf("%d connections are open, want 1", x.opened())
			}
		})
	})
	t.Run("of one that cannot be reached, at once", func(t *testing.T) {
		inSimulatedTime(t, 1, func(n int) backendEnd {
			if n > 20 {
				return stays(0)
			}
			return nil
		}, func(x *connecting) {
			for x.dials() <= 20 {
				time.Sleep(time.Second)
			}
			x.register(3, 3)
			x.want("ready", "")
		})
	})
}

// renewed is a connection for the instance's next registration.
func (w *world) renewed(addr string) *peer {
	pool := w.pools[addr]
	pool.all.generation.Add(1)
	p := w.dialled(addr)
	p.c.handshake.generation = pool.all.generation.Load()
	return p
}

func TestRenewedConnections(t *testing.T) {
	t.Run("calls go to the new one when it is ready", func(t *testing.T) {
		w, c, old := pair(t)
		c.request(true)
		renewed := w.renewed("a:1")
		c.request(true)
		want(t, old, "HEADERS 1 end", "HEADERS 3 end")
		renewed.settings()
		renewed.got()
		c.request(true)
		want(t, renewed, "HEADERS 1 end")
		old.only(1, "0")
		if old.closed {
			t.Error("the old connection has ended before its last call")
		}
		old.only(3, "0")
		renewed.only(1, "0")
		want(t, c, "HEADERS 1 :status=200 grpc-status=0 end", "HEADERS 3 :status=200 grpc-status=0 end",
			"HEADERS 5 :status=200 grpc-status=0 end")
		if !old.closed || renewed.closed {
			t.Error("the old connection goes on, or the new one does not")
		}
		w.finish()
	})
	t.Run("one without calls ends at once", func(t *testing.T) {
		w, _, old := pair(t)
		w.renewed("a:1").settings()
		if !old.closed || w.ended(backend, "finished") != 1 {
			t.Error("the old connection goes on")
		}
		w.finish()
	})
	t.Run("one that is not made leaves all as it was", func(t *testing.T) {
		w, c, old := pair(t)
		w.renewed("a:1").end()
		c.request(true)
		want(t, old, "HEADERS 1 end")
		w.finish()
	})
	t.Run("additional ones go, too, now and later", func(t *testing.T) {
		w, c, first, second := two(t)
		late := w.connected("a:1", true)
		w.renewed("a:1").settings()
		late.settings()
		for range 2 {
			c.request(true)
		}
		want(t, late)
		first.only(1, "0")
		second.only(1, "0")
		if !first.closed || !second.closed || !late.closed {
			t.Error("a connection for the old registration goes on")
		}
		w.finish()
	})
}
