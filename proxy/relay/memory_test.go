package relay

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// filling is a field that makes a block about n bytes long.
func filling(n int) []string { return []string{"long", strings.Repeat("v", n)} }

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
