package relay

import (
	"maps"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/traffic"
)

// FuzzInterleaved has each three bytes say what happens next: what, to whom, and how much of it.
func FuzzInterleaved(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 9, 10, 0, 0, 11, 0, 7, 12, 0, 0})
	f.Add([]byte{0, 0, 0, 1, 0, 200, 13, 0, 7, 1, 0, 1, 10, 1, 0, 11, 1, 255, 5, 0, 0, 11, 1, 255, 4, 0, 9, 12, 1, 0})
	f.Add([]byte{0, 0, 1, 0, 1, 1, 16, 0, 1, 0, 0, 1, 15, 0, 0, 18, 0, 0, 17, 0, 0, 19, 0, 0, 8, 0, 3})
	f.Add([]byte{6, 0, 0, 6, 1, 0, 0, 0, 0, 1, 0, 255, 1, 0, 255, 7, 0, 0, 9, 0, 0, 14, 0, 0, 20, 0, 0, 2, 0, 0})
	f.Add([]byte{20, 0, 1, 20, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 1, 1, 24, 0, 1, 24, 1, 4, 25, 0, 0, 12, 0, 0, 25, 0, 0, 12, 0, 0, 27, 0, 255})
	f.Add([]byte{30, 0, 2, 0, 0, 1, 0, 0, 1, 27, 0, 20, 10, 0, 0, 10, 1, 0, 27, 0, 20, 27, 0, 20})
	f.Add([]byte{0, 16, 1, 10, 16, 0, 11, 0, 1, 0, 32, 1, 0, 48, 1, 0, 48, 1, 10, 49, 0, 6, 0, 0, 11, 1, 1, 27, 0, 99, 4, 0, 9, 5, 0, 9})
	f.Add([]byte{26, 0, 9, 28, 0, 0, 22, 0, 255, 22, 0, 254, 22, 0, 255, 22, 0, 255, 28, 0, 1, 12, 0, 0, 22, 0, 255, 29, 0, 0, 27, 0, 99})
	f.Add([]byte{6, 0, 0, 0, 0, 1, 10, 0, 0, 11, 0, 1, 31, 0, 30, 12, 0, 0, 5, 0, 9, 31, 1, 45, 0, 1, 1, 8, 0, 255, 31, 2, 60, 0, 0, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 3*400 {
			return
		}
		addrs := []string{"a:1", "b:1"}
		w := newWorld(t, addrs...)
		in := interleaved{
			w: w, callers: []*peer{w.caller(), w.caller()}, backends: []*peer{w.backend("a:1"), w.backend("b:1")}, addrs: addrs,
			others: make([]*peer, 2),
		}
		in.newHog()
		for _, c := range in.callers {
			c.settings()
		}
		for ; len(script) >= 3; script = script[3:] {
			in.do(script[0], script[1], script[2])
		}
		w.finish()
	})
}

// contentTypes are of calls and responses in all the dialects.
var contentTypes = [...]string{"application/grpc", "application/grpc-web", "application/grpc-web-text", "application/json"}

type interleaved struct {
	w                 *world
	callers, backends []*peer
	addrs             []string
	others            []*peer // additional connections to the backends; nil if there was none
	hog               *peer   // a caller that has much held
}

func (in *interleaved) newHog() {
	in.hog = in.w.caller()
	in.hog.settings()
}

// open returns a stream of p that it may still write to, chosen by n; 0 if there is none.
func (p *peer) open(n byte) uint32 {
	var ids []uint32
	for id, st := range p.streams {
		if !st.reset && !st.sent && !(p.side == caller && st.over) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return 0
	}
	slices.Sort(ids)
	return ids[int(n)%len(ids)]
}

func (in *interleaved) do(what, whom, n byte) {
	w := in.w
	i := int(whom & 1)
	p := in.callers[i]
	what %= 32
	switch {
	case what >= 22:
		in.doMore(what, whom, n)
		return
	case what >= 10:
		p = in.backends[i]
	}
	id := p.open(whom >> 1)
	if p.c.Dead() && what != 9 && what != 19 && what != 8 {
		return
	}
	switch what {
	case 0:
		p.ask(n&1 != 0, "content-type", contentTypes[whom>>4&3], "grpc-timeout", string(rune('1'+n%9))+"S")
	case 1, 11:
		if st := p.streams[id]; st != nil && (p.side == caller || st.answered) {
			p.data(id, make([]byte, min(int64(n)*512, max(0, st.credit), max(0, p.credit))), false)
		}
	case 2:
		if id != 0 {
			p.data(id, nil, true)
		}
	case 3, 13:
		if id != 0 {
			p.reset(id, []http2.ErrCode{http2.ErrCodeCancel, http2.ErrCodeRefusedStream, http2.ErrCodeNo, http2.ErrCodeInternal}[n%4])
		}
	case 4, 14:
		p.grow(0, uint32(n)*1000+1)
	case 5, 15:
		ids := slices.Sorted(maps.Keys(p.streams))
		if len(ids) == 0 {
			return
		}
		if id := ids[int(whom>>1)%len(ids)]; !p.streams[id].reset && p.streams[id].window < 1<<24 {
			p.grow(id, uint32(n)*1000+1)
		}
	case 6, 16:
		p.resume() // what is on its way was sent to the old windows
		p.settings(setting{ID: http2.SettingInitialWindowSize, Val: uint32(n) * 300},
			setting{ID: http2.SettingMaxFrameSize, Val: 16384 + uint32(n)})
	case 7, 17:
		if n&1 != 0 {
			p.pause()
		} else {
			p.resume()
			w.step()
		}
	case 8:
		w.pass(time.Duration(n) * 50 * time.Millisecond)
	case 9:
		p.end()
		in.callers[i] = w.caller()
		in.callers[i].settings()
	case 10:
		if st := p.streams[id]; st != nil && !st.answered {
			st.answered = true
			p.headers(id, false, ":status", "200", "content-type", contentTypes[whom>>4&3])
		}
	case 12:
		if st := p.streams[id]; st != nil {
			if st.answered {
				p.trailers(id, "0")
			} else {
				p.only(id, "0")
			}
		}
	case 18:
		p.goAway(uint32(n))
	case 19:
		addr := in.addrs[i]
		p.resume()
		if n&1 != 0 && !p.c.Dead() {
			p.end()
		}
		if w.first(addr) == nil {
			w.disconnected(addr)
			in.backends[i] = w.backend(addr)
		}
	case 20:
		p.settings(setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(n % 8)})
	case 21:
		if id != 0 && !p.streams[id].answered {
			p.headers(id, false, ":status", "103")
		}
	}
}

// doMore does what has to do with memory, with additional connections, and with long times.
func (in *interleaved) doMore(what, whom, n byte) {
	w := in.w
	i := int(whom & 1)
	addr := in.addrs[i]
	if in.hog.c.Dead() {
		in.hog.resume()
		in.newHog()
	}
	switch what {
	case 22:
		in.hog.request(n&1 != 0, indexed(int(n)<<10)...)
	case 23:
		in.hog.resume()
		in.hog.settings(setting{ID: http2.SettingInitialWindowSize, Val: uint32(n) * 300})
	case 24:
		if w.dialling[w.pools[addr]] && n&3 == 0 {
			w.unreachable(addr)
		} else if w.dialling[w.pools[addr]] {
			in.others[i] = w.additional(addr, setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(n % 8)})
		}
	case 25:
		if in.others[i] != nil {
			in.others[i], in.backends[i] = in.backends[i], in.others[i]
		}
	case 26:
		w.core.memory.limit = 256<<10 + int(n)<<14
		w.step()
	case 27:
		w.pass(time.Duration(n) * 160 * time.Millisecond)
	case 28:
		if n&1 != 0 {
			in.hog.resume()
			w.step()
		} else {
			in.hog.pause()
		}
	case 29:
		id := in.hog.open(whom >> 1)
		if st := in.hog.streams[id]; st != nil {
			in.hog.data(id, make([]byte, min(int64(n)*512, max(0, st.credit), max(0, in.hog.credit))), n&1 != 0)
		}
	case 31:
		p := slices.Concat(in.callers, in.backends)[whom&3]
		p.resume()
		p.settings(setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(n) * 4})
	case 30:
		w.configure(traffic.Service{
			Policy: picker.WeightedRoundRobin, WaitTimeout: time.Second,
			Keepalive: traffic.Keepalive{Time: time.Duration(n) * time.Second, Timeout: 2 * time.Second},
		})
	}
}
