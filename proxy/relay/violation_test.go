package relay

import (
	"testing"

	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

// A backend that breaks the protocol ends its connection. What it may have begun must not be sent again.
func TestBackendViolation(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(b *peer)
	}{
		{"a stream that was never opened", func(b *peer) { b.fr.WriteData(99, false, nil) }},
		{"a frame that is too long", func(b *peer) { b.fr.WriteData(1, false, make([]byte, maxFrameSize+1)) }},
		{"PUSH_PROMISE", func(b *peer) {
			b.fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		}},
		{"a window beyond bounds", func(b *peer) { b.fr.WriteWindowUpdate(0, h2.MaxWindow) }},
		{"HPACK that is none", func(b *peer) {
			b.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x80}, EndHeaders: true})
		}},
		{"a flood", func(b *peer) {
			for range testConfig.MaxGlitches + 1 {
				b.fr.WritePing(false, [8]byte{})
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, "a:1", "b:1")
			bad := w.backend("a:1")
			c := w.caller()
			c.settings()
			c.request(true)
			bad.pause()
			c.request(true) // is given out, if not read
			c.request(true) // is not
			good := w.backend("b:1")
			tt.do(bad)
			bad.send()
			if !bad.closed || good.closed || c.closed {
				t.Error("the backend's connection goes on, or another does not")
			}
			w.disconnected("a:1")
			want(t, good, "HEADERS 1 end")
			good.only(1, "0")
			got := map[string]bool{}
			for _, f := range c.got() {
				got[f] = true
			}
			for _, f := range []string{
				"HEADERS 1 :status=200 grpc-status=13 lbproxy-error=backend_protocol end",
				"HEADERS 3 :status=200 grpc-status=13 lbproxy-error=backend_protocol end",
				"HEADERS 5 :status=200 grpc-status=0 end",
			} {
				if !got[f] {
					t.Errorf("the caller has not got %q but %v", f, got)
				}
			}
			w.finish()
		})
	}
}
