package h2_test

import (
	"bytes"
	"testing"

	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

// FuzzFrame holds the parser against golang.org/x/net/http2's: neither panics, and frames that both take are
// the same.
func FuzzFrame(f *testing.F) {
	f.Add(h2.AppendData(nil, 1, []byte("hello"), true))
	f.Add(h2.AppendHeaders(nil, 1, []byte("block"), false, h2.MinMaxFrameSize))
	f.Add(h2.AppendSettings(nil, h2.Setting{ID: h2.SettingMaxFrameSize, Value: 1 << 15}))
	f.Add(h2.AppendGoAway(nil, 1, h2.NoError, "bye"))
	f.Add(h2.AppendWindowUpdate(nil, 1, 1))
	f.Add([]byte("\x00\x00\x06\x01\x28\x00\x00\x00\x01\x00\x00\x00\x00\x03\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < h2.FrameHeaderLen {
			return
		}
		h := h2.ParseFrameHeader(b)
		if len(b) < h2.FrameHeaderLen+int(h.Length) {
			return
		}
		payload := b[h2.FrameHeaderLen : h2.FrameHeaderLen+int(h.Length)]
		if h.Check(h2.MinMaxFrameSize) != nil {
			return
		}
		framer := http2.NewFramer(nil, bytes.NewReader(b))
		framer.AllowIllegalReads = true
		theirs, err := framer.ReadFrame()
		switch h.Type {
		case h2.FrameData:
			got, ourErr := h2.ParseData(h, payload)
			if (err == nil) != (ourErr == nil) || err == nil && !bytes.Equal(got, theirs.(*http2.DataFrame).Data()) {
				t.Errorf("DATA: %q, %v; x/net: %v, %v", got, ourErr, theirs, err)
			}
		case h2.FrameHeaders:
			got, ourErr := h2.ParseHeaders(h, payload)
			if ourErr == nil && err == nil && !bytes.Equal(got, theirs.(*http2.HeadersFrame).HeaderBlockFragment()) {
				t.Errorf("HEADERS: %q; x/net: %v", got, theirs)
			}
		case h2.FrameSettings:
			s := h2.DefaultSettings()
			_ = s.Apply(payload, false)
		case h2.FrameWindowUpdate:
			got, ourErr := h2.ParseWindowUpdate(h, payload)
			if (err == nil) != (ourErr == nil) || err == nil && uint32(got) != theirs.(*http2.WindowUpdateFrame).Increment {
				t.Errorf("WINDOW_UPDATE: %d, %v; x/net: %v, %v", got, ourErr, theirs, err)
			}
		case h2.FrameGoAway:
			last, code, debug := h2.ParseGoAway(payload)
			if g := theirs.(*http2.GoAwayFrame); last != g.LastStreamID || uint32(code) != uint32(g.ErrCode) || !bytes.Equal(debug, g.DebugData()) {
				t.Errorf("GOAWAY: %d %v %q; x/net: %v", last, code, debug, g)
			}
		}
	})
}
