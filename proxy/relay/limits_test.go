package relay

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// filling is a field that makes a block about n bytes long.
func filling(n int) []string { return []string{"long", strings.Repeat("v", n)} }

// indexed is fields of about n bytes that take few on the wire: an entry of the table, again and again.
func indexed(n int) []string { return slices.Repeat(filling(3000), n/3000+1) }

// ended is how many connections of a side have ended for a cause.
func (w *world) ended(s side, cause string) int {
	w.t.Helper()
	return int(w.metric("lbproxy_connections_ended_total", "peer", s.String(), "cause", cause))
}

func TestMemory(t *testing.T) {
	const limit, small = 1 << 20, 30
	for _, tt := range []struct {
		name     string
		settings []setting                                           // the backend's
		begin    func(hog, b *peer)                                  // before the other caller's call
		grow     func(hog, b *peer, id func(call int) uint32, i int) // has the hog hold more, in one step
		whole    bool                                                // its connection is what holds it
	}{
		{
			name:  "a caller's window is closed",
			begin: func(hog, b *peer) { hog.settings(setting{ID: http2.SettingInitialWindowSize, Val: 0}) },
			grow: func(hog, b *peer, id func(int) uint32, i int) {
				if i%4 == 0 {
					hog.request(true)
					b.respond(id(i / 4))
				} else {
					b.data(id(i/4), make([]byte, maxFrameSize), false)
				}
			},
		},
		{
			name:     "a backend's window is closed",
			settings: []setting{{ID: http2.SettingInitialWindowSize, Val: 0}},
			grow: func(hog, b *peer, id func(int) uint32, i int) {
				if i%4 == 0 {
					hog.request(false)
				} else {
					hog.data(hog.next-2, make([]byte, maxFrameSize), false)
				}
			},
		},
		{
			name:     "the backend takes no more streams",
			settings: []setting{{ID: http2.SettingMaxConcurrentStreams, Val: 1}},
			grow:     func(hog, b *peer, id func(int) uint32, i int) { hog.request(true, filling(15_000)...) },
		},
		{
			name: "a field block is not finished",
			grow: func(hog, b *peer, id func(int) uint32, i int) {
				if i == 0 {
					hog.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 101})
				}
				hog.fr.WriteContinuation(101, false, make([]byte, maxFrameSize-1000))
				hog.send()
			},
			whole: true,
		},
		{
			name:  "a caller does not read the fields of responses",
			begin: func(hog, b *peer) { hog.pause() },
			grow: func(hog, b *peer, id func(int) uint32, i int) {
				hog.request(true)
				b.headers(id(i), true, append([]string{":status", "200"}, filling(15_000)...)...)
			},
			whole: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, other, b := pair(t, tt.settings...)
			w.core.memory.limit = limit
			hog := w.caller()
			hog.settings()
			hog.hostile = true
			if tt.begin != nil {
				tt.begin(hog, b)
			}
			other.request(true)
			for range small {
				hog.request(false)
			}
			hog.got()
			shed := func() bool {
				return hog.c.Dead() || slices.ContainsFunc(hog.log, func(f string) bool {
					return strings.HasSuffix(f, " grpc-status=8 lbproxy-error=limit end")
				})
			}
			for i := 0; !shed(); i++ {
				if i > 200 {
					t.Fatalf("nothing is shed, %d bytes are held", w.core.memory.used)
				}
				tt.grow(hog, b, func(call int) uint32 { return uint32(2*small + 3 + 2*call) }, i)
			}
			if most := limit - limit/relief; w.core.memory.used > most {
				t.Errorf("%d bytes are held after shedding, want at most %d", w.core.memory.used, most)
			}
			if hog.c.Dead() != tt.whole || tt.whole && w.ended(caller, "memory") != 1 {
				t.Errorf("the connection has ended: %v, want %v; %d because of memory", hog.c.Dead(), tt.whole, w.ended(caller, "memory"))
			}
			for id := uint32(1); id < 2*small && !tt.whole; id += 2 {
				if hog.c.Stream(id) == nil {
					t.Error("a call that holds little has ended")
				}
			}
			if b.closed || other.closed {
				t.Error("others' connections have ended")
			}
			b.only(1, "0")
			want(t, other, "HEADERS 1 :status=200 grpc-status=0 end")
			w.finish()
		})
	}
}

// The caller that holds most loses calls, whoever asks for the last byte.
func TestMemoryOfTheLargestCaller(t *testing.T) {
	w, hog, b := pair(t, setting{ID: http2.SettingInitialWindowSize, Val: 0})
	for range 5 {
		hog.data(hog.request(false), make([]byte, 50_000), false)
	}
	other := w.caller()
	other.settings()
	for range 3 {
		other.data(other.request(false), make([]byte, 50_000), false)
	}
	want(t, other)
	want(t, hog)
	w.core.memory.limit = w.core.memory.used + 100<<10
	for i := 0; len(hog.log) == 0; i++ {
		if i > 100 {
			t.Fatalf("the caller that holds most loses nothing; the other got %q", other.got())
		}
		other.request(false, filling(2000)...)
	}
	if len(other.log) != 0 || other.c.Len() < 3 {
		t.Errorf("the caller that holds less got %q", other.got())
	}
	if got := hog.log[0]; !strings.Contains(got, "lbproxy-error=limit") {
		t.Errorf("the caller that holds most got %q", got)
	}
	b.settings(setting{ID: http2.SettingInitialWindowSize, Val: 100_000})
	b.grow(0, 1<<20)
	for _, id := range []uint32{11, 13, 15} {
		if got := b.received(id); got != 50_000 {
			t.Errorf("the backend got %d bytes of a call of the caller that holds less", got)
		}
	}
	w.finish()
}

// A request is kept for another endpoint, which it may not need, only while there is memory for that.
func TestScarceMemory(t *testing.T) {
	for _, tt := range []struct {
		name            string
		limit           func(used int) int
		caller, another []string
	}{
		{"little is used", func(used int) int { return 2 * spareable * used }, nil, []string{"HEADERS 1", "DATA 1 7"}},
		{"much is used", func(used int) int { return spareable * (used - 1) }, []string{"RST 1 REFUSED_STREAM"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, "a:1", "b:1")
			a := w.backend("a:1")
			c := w.caller()
			c.settings()
			id := c.request(false)
			w.core.memory.limit = tt.limit(w.core.memory.used)
			c.data(id, []byte("request"), false)
			w.core.memory.limit = int(testConfig.Memory)
			another := w.backend("b:1")
			a.reset(1, http2.ErrCodeRefusedStream)
			want(t, c, tt.caller...)
			want(t, another, tt.another...)
			w.finish()
		})
	}
}

// The windows of calls whose readers are quick grow, as long as there is memory for all of them to be filled.
func TestWindowsGrowWithinTheMemory(t *testing.T) {
	const room = streamWindow + streamWindow/2
	w, c, b := pair(t, setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	b.grow(0, 1<<30)
	w.core.memory.limit = spareable * room
	ids := []uint32{c.request(false), c.request(false), c.request(false)}
	for range 10 {
		for _, id := range ids {
			c.data(id, make([]byte, streamWindow/2+1), false)
		}
	}
	if got := w.core.memory.grown; got != room {
		t.Errorf("windows have grown by %d bytes, want %d", got, room)
	}
	for _, id := range ids {
		c.reset(id, http2.ErrCodeCancel)
	}
	if got := w.core.memory.grown; got != 0 {
		t.Errorf("windows are %d bytes larger without calls", got)
	}
	w.finish()
}

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

func TestResets(t *testing.T) {
	const most = 100
	reset := func(c *peer) { c.reset(c.request(false), http2.ErrCodeCancel) }
	t.Run("DATA does not excuse them", func(t *testing.T) {
		w, c, b := pair(t)
		w.core.limits.MaxGlitches = most
		n := 0
		for ; !c.c.Dead() && n <= 2*most; n++ {
			id := c.request(false)
			c.data(id, []byte("x"), false)
			c.reset(id, http2.ErrCodeCancel)
		}
		if n != most+1 || w.ended(caller, "resets") != 1 || !slices.ContainsFunc(c.got(), isCalm) {
			t.Errorf("the connection ended after %d resets, %d because of resets", n, w.ended(caller, "resets"))
		}
		if b.closed {
			t.Error("the backend's connection has ended")
		}
		w.finish()
	})
	t.Run("with calls that end", func(t *testing.T) {
		w, c, b := pair(t)
		w.core.limits.MaxGlitches = most
		for range 10 * most {
			reset(c)
			c.request(true)
			b.only(b.c.State().NextID-2, "0")
		}
		if c.closed {
			t.Error("the connection has ended")
		}
		w.finish()
	})
	t.Run("spread over time", func(t *testing.T) {
		w, c, _ := pair(t)
		w.core.limits.MaxGlitches = most
		for range 5 {
			for range most {
				reset(c)
			}
			w.pass(2 * glitchPeriod)
		}
		if c.closed {
			t.Error("the connection has ended")
		}
		w.finish()
	})
}

func isCalm(frame string) bool {
	return strings.HasPrefix(frame, "GOAWAY") && strings.HasSuffix(frame, "ENHANCE_YOUR_CALM")
}

func TestBombs(t *testing.T) {
	const most = 64 << 10
	t.Run("one that is far too large", func(t *testing.T) {
		w, c, b := pair(t)
		w.core.limits.MaxHeaderList = most
		c.request(true, indexed(4*most)...)
		if w.ended(caller, "header_list") != 1 || !slices.ContainsFunc(c.got(), isCalm) {
			t.Error("the connection goes on")
		}
		want(t, b)
		w.finish()
	})
	t.Run("many that are too large", func(t *testing.T) {
		w, c, b := pair(t)
		w.core.limits.MaxHeaderList = most
		n := 0
		for ; !c.c.Dead() && n < 200; n++ {
			c.request(true, indexed(2*most)...)
		}
		if n < 50 || n > 100 || w.ended(caller, "glitches") != 1 {
			t.Errorf("the connection ended after %d blocks, %d because of glitches", n, w.ended(caller, "glitches"))
		}
		got := c.got()
		if got[0] != "RST 1 ENHANCE_YOUR_CALM" || !isCalm(got[len(got)-1]) {
			t.Errorf("the caller got %q and in the end %q", got[0], got[len(got)-1])
		}
		want(t, b)
		w.finish()
	})
	t.Run("a backend's", func(t *testing.T) {
		w, c, b := pair(t)
		w.core.limits.MaxHeaderList = most
		c.request(true)
		b.headers(1, true, append([]string{":status", "200"}, indexed(4*most)...)...)
		want(t, c, "HEADERS 1 :status=200 grpc-status=13 lbproxy-error=backend_protocol end")
		if w.ended(backend, "header_list") != 1 {
			t.Error("the backend's connection goes on")
		}
		w.finish()
	})
}

// A field block of between one and four times the limit costs its call and no other, whatever it is made of.
func TestFieldsThatCostTheirCall(t *testing.T) {
	const most = 64 << 10
	long := func(n int) []string { return []string{"long", strings.Repeat("~", n)} } // which Huffman's code makes no shorter
	var many []string
	for i := range 3 * most / 100 {
		many = append(many, fmt.Sprint("long-", i), strings.Repeat("~", 50))
	}
	for _, tt := range []struct {
		name   string
		fields []string
	}{
		{"one field, a little too long", long(most)},
		{"one field", long(most * 3 / 2)},
		{"one field, nearly four times too long", long(4*most - 1000)},
		{"one long name", []string{strings.Repeat("~", 3*most), "value"}},
		{"one field that is compressed", filling(3 * most)},
		{"many fields", many},
		{"many indexed fields", indexed(3 * most)},
	} {
		for _, size := range []int{3000, maxFrameSize / 2, maxFrameSize} {
			t.Run(fmt.Sprintf("%s, in frames of %d", tt.name, size), func(t *testing.T) {
				w, c, b := pair(t)
				w.core.limits.MaxHeaderList = most
				send := func(p *peer, id uint32, end bool, fields ...string) {
					p.inFragments(id, end, size, bytes.Clone(p.block(fields)))
				}
				c.streams[1], c.next = &peerStream{}, 3
				send(c, 1, false, append(requestFields[:len(requestFields):len(requestFields)], tt.fields...)...)
				want(t, c, "RST 1 ENHANCE_YOUR_CALM")
				c.fr.WriteData(1, true, []byte("body"))
				c.request(false) // its trailers
				send(c, 3, true, tt.fields...)
				want(t, c, "RST 3 ENHANCE_YOUR_CALM")
				c.request(true)
				c.request(true)
				want(t, b, "HEADERS 1", "RST 1 CANCEL", "HEADERS 3 end", "HEADERS 5 end")
				send(b, 3, true, append([]string{":status", "200", "grpc-status", "0"}, tt.fields...)...)
				want(t, c, "HEADERS 5 :status=200 grpc-status=13 lbproxy-error=backend_protocol end")
				b.respond(5) // and too long trailers
				send(b, 5, true, append([]string{"grpc-status", "0"}, tt.fields...)...)
				want(t, c, "HEADERS 7 :status=200", "HEADERS 7 grpc-status=13 lbproxy-error=backend_protocol end")
				want(t, b, "RST 3 ENHANCE_YOUR_CALM", "RST 5 ENHANCE_YOUR_CALM")
				c.request(true, "x", "y")
				b.headers(7, true, ":status", "200", "grpc-status", "0", "x", "y")
				want(t, b, "HEADERS 7 x=y end")
				want(t, c, "HEADERS 9 :status=200 grpc-status=0 x=y end")
				w.finish()
			})
		}
	}
	t.Run("more", func(t *testing.T) {
		w, c, b := pair(t)
		w.core.limits.MaxHeaderList = most
		c.requestInFragments(bytes.Clone(c.block(append(requestFields[:len(requestFields):len(requestFields)], long(4*most)...))))
		want(t, c, "GOAWAY 0 ENHANCE_YOUR_CALM")
		if w.ended(caller, "header_list") != 1 {
			t.Error("the connection goes on")
		}
		want(t, b)
		w.finish()
	})
}

// What takes long is done in parts, between which others get their turn.
func TestWorkIsBounded(t *testing.T) {
	w, c, b := pair(t)
	const calls = 10
	for id := uint32(1); id < 2*calls; id += 2 {
		block := bytes.Clone(c.block(append(requestFields[:len(requestFields):len(requestFields)], indexed(2*maxWork)...)))
		c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: true})
		c.streams[id] = &peerStream{}
	}
	frames := bytes.Clone(c.out.Bytes())
	c.out.Reset()
	if len(frames) > readBuffer {
		t.Fatalf("%d bytes do not fit into a buffer", len(frames))
	}
	parts, more := 1, c.c.Conn.Feed(copy(c.c.ReadBuf(), frames))
	for ; more; parts++ {
		if got := int(c.c.State().LastID+1) / 2; got > parts {
			t.Fatalf("%d blocks are decoded in %d parts", got, parts)
		}
		w.step()
		more = c.c.Conn.Feed(0)
	}
	w.step()
	if got := len(b.streams); got != calls || parts < calls {
		t.Errorf("the backend has got %d calls of %d, in %d parts", got, calls, parts)
	}
	w.finish()
}
