package relay

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

// received is how many bytes of DATA have come on a stream.
func (p *peer) received(id uint32) int { return len(p.streams[id].received) }

func TestStreamWindow(t *testing.T) {
	w, c, b := pair(t)
	c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 10})
	c.request(true)
	c.request(true)
	b.respond(1)
	b.respond(3)
	b.data(1, make([]byte, 100), false)
	b.trailers(1, "0")
	if got := c.received(1); got != 10 {
		t.Fatalf("the caller got %d bytes through a window of 10", got)
	}
	b.data(3, []byte("others go on"[:5]), false)
	b.trailers(3, "0")
	if got := c.received(3); got != 5 || !c.streams[3].over {
		t.Fatalf("another call got %d bytes", got)
	}
	c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 0}) // the window is -10 now
	c.grow(1, 15)
	if got := c.received(1); got != 15 {
		t.Fatalf("the caller got %d bytes, of which its windows allow 15", got)
	}
	c.grow(1, 84)
	if got, st := c.received(1), c.streams[1]; got != 99 || st.over {
		t.Fatalf("the caller got %d bytes and the end is %v, with one byte to come", got, st.over)
	}
	c.grow(1, 1)
	if got, st := c.received(1), c.streams[1]; got != 100 || !st.over {
		t.Fatalf("the caller got %d bytes and the end is %v", got, st.over)
	}
	w.finish()
}

func TestNegativeWindowLetsTheEndPass(t *testing.T) {
	w, c, b := pair(t)
	id := c.request(false)
	c.data(id, make([]byte, 100), false)
	b.settings(setting{ID: http2.SettingInitialWindowSize, Val: 0})
	c.data(id, nil, true)
	if !b.streams[1].over {
		t.Error("END_STREAM waits for a window")
	}
	w.finish()
}

func TestConnectionWindow(t *testing.T) {
	w, c, b := pair(t)
	c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	for range 3 {
		b.respond(c.request(true))
	}
	for _, id := range []uint32{1, 3, 5} {
		b.data(id, make([]byte, 50_000), false)
	}
	if got := c.received(1) + c.received(3) + c.received(5); got != 65535 {
		t.Fatalf("the caller got %d bytes through the connection's window", got)
	}
	c.grow(0, 64_000)
	if c.received(3) == 50_000 && c.received(5) == 0 {
		t.Error("one call took the whole window")
	}
	c.grow(0, 50_000)
	if got := c.received(1) + c.received(3) + c.received(5); got != 150_000 {
		t.Fatalf("the caller got %d bytes", got)
	}
	w.finish()
}

func TestCreditFollowsTheOtherSide(t *testing.T) {
	w, c, b := pair(t, setting{ID: http2.SettingInitialWindowSize, Val: 0})
	id := c.request(false)
	c.data(id, make([]byte, streamWindow), false)
	want(t, c)
	b.grow(1, streamWindow)
	b.grow(0, streamWindow)
	if got := c.streams[id].credit; got < streamWindow/2 {
		t.Errorf("the caller may send %d bytes after all of its were taken", got)
	}
	c.data(id, make([]byte, c.streams[id].credit), false)
	c.got()
	for range streamWindow/maxFrameSize + 1 {
		c.fr.WriteData(id, false, make([]byte, maxFrameSize))
	}
	c.send()
	if got := c.got(); !slices.Contains(got, "RST 1 FLOW_CONTROL_ERROR") {
		t.Errorf("a caller that sends too much got %q", got)
	}
	if got := b.got(); got[len(got)-1] != "RST 1 CANCEL" {
		t.Errorf("the backend got %q in the end", got[len(got)-1])
	}
	w.finish()
}

// A reader that always lags must not make its call's queue grow by what it has read.
func TestQueueDoesNotGrow(t *testing.T) {
	w, c, b := pair(t)
	c.settings(setting{ID: http2.SettingInitialWindowSize, Val: 0})
	c.request(true)
	b.respond(1)
	b.data(1, make([]byte, 20_000), false)
	for range 2000 {
		c.grow(0, 5_000)
		c.grow(1, 5_000)
		b.data(1, make([]byte, 5_000), false)
	}
	c.grow(0, 1<<20)
	c.grow(1, 1<<20)
	if got := c.received(1); got != 20_000+2000*5_000 {
		t.Errorf("the caller got %d bytes", got)
	}
	w.finish()
}

func TestPausedReader(t *testing.T) {
	w, slow, b := pair(t)
	quick := w.caller()
	quick.settings(setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	slow.settings(setting{ID: http2.SettingInitialWindowSize, Val: 1 << 24})
	slow.grow(0, 1<<24)
	slow.pause()
	slow.request(true)
	quick.request(true)
	b.respond(1)
	b.respond(3)
	sent := 0
	for sent < 10*quickWindow && b.streams[1].credit > 0 {
		n := min(b.streams[1].credit, maxFrameSize)
		b.data(1, make([]byte, n), false)
		sent += int(n)
	}
	if got := slow.c.State().Unwritten; got > highWater+maxFrameSize+100 {
		t.Errorf("%d bytes stand to be written to a peer that does not read", got)
	}
	if most := highWater + maxFrameSize + quickWindow; sent > most {
		t.Errorf("the backend may send %d bytes to a peer that does not read, want at most %d", sent, most)
	}
	b.only(3, "0")
	if !quick.streams[1].over {
		t.Error("another caller waits")
	}
	slow.resume()
	if got := slow.received(1); got != sent {
		t.Errorf("the slow caller got %d bytes in the end: %q", got, slow.got())
	}
	w.finish()
}

func TestFloods(t *testing.T) {
	for _, tt := range []struct {
		name  string
		frame func(c *peer, i int)
	}{
		{"PING", func(c *peer, i int) { c.fr.WritePing(false, [8]byte{}) }},
		{"SETTINGS", func(c *peer, i int) { c.fr.WriteSettings() }},
		{"acknowledgements", func(c *peer, i int) { c.fr.WriteSettingsAck() }},
		{"PRIORITY", func(c *peer, i int) { c.fr.WritePriority(1, http2.PriorityParam{StreamDep: 5}) }},
		{"empty DATA", func(c *peer, i int) { c.fr.WriteData(1, false, nil) }},
		{"WINDOW_UPDATE", func(c *peer, i int) { c.fr.WriteWindowUpdate(1, 1) }},
		{"WINDOW_UPDATE of the connection", func(c *peer, i int) { c.fr.WriteWindowUpdate(0, 1) }},
		{"unknown frames", func(c *peer, i int) { c.fr.WriteRawFrame(99, 0, 0, nil) }},
		{"rapid reset", func(c *peer, i int) {
			id := uint32(3 + 2*i)
			c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block(requestFields), EndHeaders: true, EndStream: true})
			c.fr.WriteRSTStream(id, http2.ErrCodeCancel)
		}},
		{"CONTINUATION", func(c *peer, i int) {
			if i == 0 {
				c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3})
			}
			c.fr.WriteContinuation(3, false, nil)
		}},
		{"long CONTINUATION", func(c *peer, i int) {
			if i == 0 {
				c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3})
			}
			if i < hpack.TooLarge*int(testConfig.MaxHeaderList)/maxFrameSize+1 {
				c.fr.WriteContinuation(3, false, make([]byte, maxFrameSize))
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, bad, b := pair(t)
			good := w.caller()
			good.settings()
			bad.request(false)
			bad.hostile = true
			for i := 0; i < testConfig.MaxGlitches+10 && !bad.c.Dead(); i++ {
				tt.frame(bad, i)
				if i%100 == 0 {
					bad.send()
				}
			}
			bad.send()
			if !bad.closed || !strings.Contains(strings.Join(bad.got(), "\n"), "ENHANCE_YOUR_CALM") {
				t.Error("the flood does not end in ENHANCE_YOUR_CALM")
			}
			if b.closed || good.closed {
				t.Error("it has ended others' connections")
			}
			id := b.c.State().NextID
			good.request(true)
			b.only(id, "0")
			if !good.streams[1].over {
				t.Error("another caller is not served")
			}
			w.finish()
		})
	}
}

func TestSlowPings(t *testing.T) {
	w, c, _ := pair(t)
	for range 3 {
		for range testConfig.MaxGlitches {
			c.fr.WritePing(false, [8]byte{})
		}
		w.pass(2 * glitchPeriod)
		c.send()
		w.acks()
	}
	if c.closed {
		t.Error("a connection that is kept alive by PINGs is closed")
	}
	w.finish()
}

func TestPingWaitsForOtherFrames(t *testing.T) {
	w, c, b := pair(t)
	c.request(true)
	c.ping()
	want(t, c)
	if !c.c.State().AcksWait || c.c.alarm.place == 0 {
		t.Error("nobody is asked to send the answer")
	}
	b.respond(1)
	want(t, c, "HEADERS 1 :status=200") // an answer now would have the next PING come
	w.pass(ackRest[caller])
	b.data(1, []byte("x"), false)
	want(t, c, "DATA 1 1", "PING ack=true")
	b.trailers(1, "0")
	c.ping()
	w.pass(ackDelay[caller])
	want(t, c, "HEADERS 1 grpc-status=0 end", "PING ack=true")
	w.finish()
}

// A peer that is sent much measures the bandwidth in earnest, and is answered with it.
func TestPingAmongMuchData(t *testing.T) {
	w, c, b := pair(t)
	c.request(true)
	b.respond(1)
	c.ping()
	b.data(1, make([]byte, maxFrameSize), false)
	want(t, c, "HEADERS 1 :status=200", "DATA 1 16384", "PING ack=true")
	w.finish()
}

// Where the next frame is not near, nothing is gained by waiting.
func TestPingOnAQuietConnection(t *testing.T) {
	w, c, b := pair(t)
	for range 2 {
		id := c.request(false)
		c.data(id, []byte("x"), true)
		w.pass(ackDelay[caller] / 2)
		b.respond(id)
		b.data(id, []byte("x"), false)
		b.trailers(id, "0")
		w.pass(ackDelay[caller] / 2)
	}
	c.got()
	c.ping()
	want(t, c, "PING ack=true")
	w.finish()
}

func TestHeaderListTooBig(t *testing.T) {
	t.Run("the caller's", func(t *testing.T) {
		w, c, b := pair(t)
		// Small on the wire: an entry of the table, again and again.
		long := []string{"long", strings.Repeat("v", 3000)}
		fields := slices.Concat(requestFields, slices.Repeat(long, int(testConfig.MaxHeaderList)/3000+1))
		c.request(true, fields[len(requestFields):]...)
		want(t, c, "RST 1 ENHANCE_YOUR_CALM")
		want(t, b)
		c.request(true)
		want(t, b, "HEADERS 1 end")
		w.finish()
	})
	t.Run("for the backend", func(t *testing.T) {
		w, c, b := pair(t, setting{ID: http2.SettingMaxHeaderListSize, Val: 1000})
		c.request(true, "long", strings.Repeat("v", 1000))
		want(t, c, "HEADERS 1 :status=200 grpc-status=13 lbproxy-error=limit end")
		want(t, b)
		w.finish()
	})
	t.Run("the backend's", func(t *testing.T) {
		w, c, b := pair(t)
		c.request(true)
		long := []string{"long", strings.Repeat("v", 3000)}
		b.headers(1, true, slices.Concat([]string{":status", "200"}, slices.Repeat(long, int(testConfig.MaxHeaderList)/3000+1))...)
		want(t, c, "HEADERS 1 :status=200 grpc-status=13 lbproxy-error=backend_protocol end")
		w.finish()
	})
}
