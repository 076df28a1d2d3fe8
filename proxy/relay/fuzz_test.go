package relay

import (
	"bytes"
	"maps"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/traffic"
)

// echo has a backend answer every call by itself: headers at the request's, and back what it sends.
func (p *peer) echo() {
	type answer struct {
		id           uint32
		headers, end bool
		n            int
	}
	var todo []answer
	running := false
	p.onFrame = func(id uint32, headers, end bool, n int) {
		todo = append(todo, answer{id, headers, end, n})
		if running {
			return
		}
		running = true
		for len(todo) > 0 {
			a := todo[0]
			todo = todo[1:]
			st := p.streams[a.id]
			if st.reset || st.sent {
				continue
			}
			if a.headers && !a.end {
				p.fr.WriteHeaders(http2.HeadersFrameParam{
					StreamID: a.id, EndHeaders: true,
					BlockFragment: p.block([]string{":status", "200", "content-type", "application/grpc"}),
				})
			}
			if n := min(int64(a.n), st.credit, p.credit); n > 0 {
				p.fr.WriteData(a.id, false, make([]byte, n))
				st.credit -= n
				p.credit -= n
			}
			if a.n > 0 { // it takes what it was sent
				p.fr.WriteWindowUpdate(0, uint32(a.n))
				p.window += int64(a.n)
				if !a.end {
					p.fr.WriteWindowUpdate(a.id, uint32(a.n))
					st.window += int64(a.n)
				}
			}
			if a.end {
				st.sent = true
				fields := []string{"grpc-status", "0"}
				if a.headers {
					fields = []string{":status", "200", "grpc-status", "0"}
				}
				p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: a.id, EndHeaders: true, EndStream: true, BlockFragment: p.block(fields)})
			}
			b := bytes.Clone(p.out.Bytes())
			p.out.Reset()
			p.raw(b)
		}
		running = false
	}
}

// chunks feeds b in pieces, the first of cut bytes, and checks after each.
func (p *peer) chunks(b []byte, cut byte) {
	for n := int(cut) + 1; len(b) > 0; n = 1 + n*3 {
		n = min(n, len(b))
		p.raw(b[:n])
		p.w.step()
		b = b[n:]
	}
}

// script frames what f writes.
func script(f func(fr *http2.Framer, block func(...string) []byte)) []byte {
	var b, blob bytes.Buffer
	enc := hpack.NewEncoder(&blob)
	f(http2.NewFramer(&b, nil), func(fields ...string) []byte {
		blob.Reset()
		for i := 0; i < len(fields); i += 2 {
			enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		return bytes.Clone(blob.Bytes())
	})
	return b.Bytes()
}

func FuzzCaller(f *testing.F) {
	request := func(fr *http2.Framer, id uint32, block []byte, end bool) {
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: end})
	}
	f.Add(byte(0), script(func(fr *http2.Framer, block func(...string) []byte) {
		fr.WriteSettings()
		request(fr, 1, block(requestFields...), false)
		fr.WriteData(1, true, []byte("hello"))
		request(fr, 3, block(requestFields...), true)
		fr.WritePing(false, [8]byte{})
	}))
	f.Add(byte(30), script(func(fr *http2.Framer, block func(...string) []byte) {
		fr.WriteSettings(setting{ID: http2.SettingInitialWindowSize, Val: 3})
		request(fr, 1, block(append(requestFields, "grpc-timeout", "1n")...), false)
		fr.WriteDataPadded(1, false, []byte("hello"), make([]byte, 9))
		fr.WriteSettings(setting{ID: http2.SettingInitialWindowSize, Val: 0})
		fr.WriteWindowUpdate(1, 2)
		fr.WriteRSTStream(1, http2.ErrCodeCancel)
		request(fr, 3, block(append(requestFields, "content-length", "4")...), false)
		fr.WriteData(3, true, []byte("hell"))
		fr.WriteGoAway(0, http2.ErrCodeNo, nil)
	}))
	f.Add(byte(99), script(func(fr *http2.Framer, block func(...string) []byte) {
		fr.WriteSettings(setting{ID: http2.SettingHeaderTableSize, Val: 0})
		b := block(requestFields...)
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:3]})
		fr.WriteContinuation(1, true, b[3:])
		fr.WritePriority(1, http2.PriorityParam{StreamDep: 1})
		request(fr, 5, block(requestFields...), false)
		request(fr, 5, block("x", "y"), true)
	}))
	f.Fuzz(func(t *testing.T, cut byte, b []byte) {
		w := newWorld(t, "a:1")
		w.backend("a:1").echo()
		good, bad := w.caller(), w.caller()
		good.settings()
		bad.hostile = true
		bad.raw([]byte(h2.ClientPreface))
		bad.chunks(b, cut)
		if w.first("a:1") != nil {
			good.got()
			id := good.request(false)
			good.data(id, []byte("unharmed"), true)
			if st := good.streams[id]; !st.over || string(st.received) != string(make([]byte, 8)) {
				t.Errorf("another caller got %q", good.got())
			}
		} else {
			t.Error("a caller has ended a backend's connection")
		}
		w.pass(time.Hour)
		w.finish()
	})
}

func FuzzBackend(f *testing.F) {
	headers := func(fr *http2.Framer, id uint32, end bool, block []byte) {
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: end})
	}
	f.Add(byte(0), script(func(fr *http2.Framer, block func(...string) []byte) {
		fr.WriteSettings()
		headers(fr, 1, false, block(":status", "200", "content-type", "application/grpc"))
		fr.WriteData(1, false, []byte("hello"))
		headers(fr, 1, true, block("grpc-status", "0"))
		headers(fr, 3, true, block(":status", "200", "grpc-status", "5"))
	}))
	f.Add(byte(50), script(func(fr *http2.Framer, block func(...string) []byte) {
		fr.WriteSettings(setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
		headers(fr, 1, false, block(":status", "103"))
		fr.WriteSettings(setting{ID: http2.SettingInitialWindowSize, Val: 0}, setting{ID: http2.SettingMaxConcurrentStreams, Val: 9})
		fr.WriteRSTStream(3, http2.ErrCodeRefusedStream)
		fr.WriteWindowUpdate(1, 3)
		fr.WriteGoAway(1, http2.ErrCodeNo, nil)
		fr.WriteWindowUpdate(1, 1<<30)
		headers(fr, 1, true, block(":status", "200", "grpc-status", "0"))
	}))
	f.Add(byte(9), script(func(fr *http2.Framer, block func(...string) []byte) {
		fr.WriteSettings(setting{ID: http2.SettingMaxHeaderListSize, Val: 10})
		fr.WritePriority(9, http2.PriorityParam{StreamDep: 9})
		fr.WritePing(false, [8]byte{})
		fr.WriteRSTStream(1, http2.ErrCodeNo)
	}))
	f.Fuzz(func(t *testing.T, cut byte, b []byte) {
		w := newWorld(t, "bad:1", "good:1")
		bad := w.dialled("bad:1")
		bad.hostile = true
		c := w.caller()
		c.settings()
		c.request(true)
		first := min(len(b), 9+6*int(cut%4))
		bad.raw(b[:first])
		w.endpoints["bad:1"].SetState(picker.Ready, nil)
		w.step()
		id := c.request(false)
		c.data(id, bytes.Repeat([]byte("x"), 60_000), false)
		c.request(false)
		c.data(5, []byte("small"), true)
		bad.chunks(b[first:], cut)
		if !c.closed {
			c.grow(0, 1000)
		} else {
			t.Error("a backend has ended a caller's connection")
		}
		if w.first("bad:1") == nil {
			w.disconnected("bad:1")
		}
		good := w.dialled("good:1")
		good.echo()
		good.settings()
		w.endpoints["good:1"].SetState(picker.Ready, nil)
		w.step()
		w.pass(time.Hour)
		bad.end()
		w.disconnected("bad:1")
		for id, st := range c.streams {
			if id != 3 && !st.over && !st.reset {
				t.Errorf("call %d has not ended: %q", id, c.got())
			}
		}
		w.finish()
	})
}

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
