package relay

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// indexed is fields of about n bytes that take few on the wire: an entry of the table, again and again.
func indexed(n int) []string { return slices.Repeat(filling(3000), n/3000+1) }

func isCalm(frame string) bool {
	return strings.HasPrefix(frame, "GOAWAY") && strings.HasSuffix(frame, "ENHANCE_YOUR_CALM")
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
