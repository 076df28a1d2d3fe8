package relay

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/h2"
)

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
