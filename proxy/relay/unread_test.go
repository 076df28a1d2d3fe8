package relay

import (
	"testing"

	"golang.org/x/net/http2"
)

func TestUnread(t *testing.T) {
	for _, tt := range []struct {
		name  string
		frame func(w *world, c, b *peer, i int)
	}{
		{"responses", func(w *world, c, b *peer, i int) {
			c.request(true)
			b.headers(b.c.State().NextID-2, true, append([]string{":status", "200"}, filling(10_000)...)...)
		}},
		{"answers to PINGs", func(w *world, c, b *peer, i int) {
			for range 1000 {
				c.fr.WritePing(false, [8]byte{})
			}
			c.send()
			w.pass(glitchPeriod)
		}},
		{"acknowledgements of SETTINGS", func(w *world, c, b *peer, i int) {
			for range 1000 {
				c.fr.WriteSettings()
			}
			c.send()
			w.pass(glitchPeriod)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, other, b := pair(t)
			w.core.limits.MaxUnread = 300 << 10
			other.request(true)
			c := w.caller()
			c.settings()
			c.pause()
			for i := 0; !c.c.Dead(); i++ {
				if i > 100 {
					t.Fatalf("the connection goes on, with %d bytes to be written", c.c.State().Out)
				}
				tt.frame(w, c, b, i)
				if most := w.core.limits.MaxUnread + 20_000; c.c.State().Out > most {
					t.Fatalf("%d bytes wait to be written, want at most %d", c.c.State().Out, most)
				}
			}
			if n := w.ended(caller, "unread"); n != 1 {
				t.Errorf("%d connections have ended because their peers do not read", n)
			}
			b.only(1, "0")
			want(t, other, "HEADERS 1 :status=200 grpc-status=0 end")
			w.finish()
		})
	}
}

func TestBackendThatDoesNotRead(t *testing.T) {
	w, c, b := pair(t)
	b.pause()
	const calls = 40
	for range calls {
		c.request(true, filling(10_000)...)
	}
	if got := b.c.State().Out; got > highWater+12_000 {
		t.Errorf("%d bytes stand to be written to a backend that does not read", got)
	}
	waiting := w.pools["a:1"].queue.Len()
	if waiting < calls/4 || int(w.metric("lbproxy_endpoint_waiting")) != waiting {
		t.Errorf("%d calls wait, %v are counted", waiting, w.metric("lbproxy_endpoint_waiting"))
	}
	if len(w.dialling) != 0 {
		t.Error("one more connection is wished for to a backend that takes streams and does not read")
	}
	c.reset(2*calls-1, http2.ErrCodeCancel)
	b.resume()
	w.step()
	if got := len(b.streams); got != calls-1 {
		t.Errorf("the backend has got %d calls, want %d", got, calls-1)
	}
	for id := uint32(1); id < 2*(calls-1); id += 2 {
		b.only(id, "0")
	}
	if got := c.c.Len(); got != 0 {
		t.Errorf("%d calls have not ended", got)
	}
	w.finish()
}
