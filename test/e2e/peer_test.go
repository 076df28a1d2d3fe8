package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// peer is a caller that writes frames as it likes. What it writes is buffered; errors are left to mustEnd, since a
// proxy may well close the connection in between.
type peer struct {
	*http2.Framer
	*bufio.Writer
	t      *testing.T
	conn   net.Conn
	nextID uint32
	block  bytes.Buffer
	enc    *hpack.Encoder

	ended  chan struct{} // closed when the proxy has closed the connection, after the following were written:
	goAway *http2.ErrCode
	cause  error // why reading ended
	resets map[http2.ErrCode]int
}

// newPeer connects to a proxy and greets it, announcing settings. It reads all that comes.
func newPeer(t *testing.T, addr string, settings ...http2.Setting) *peer {
	t.Helper()
	p := newDeafPeer(t, addr, settings...)
	go p.read() // ends when the connection does
	return p
}

// newDeafPeer is newPeer for one that does not read, until read is called.
func newDeafPeer(t *testing.T, addr string, settings ...http2.Setting) *peer {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{
		t: t, conn: c, Writer: bufio.NewWriterSize(c, 64<<10), nextID: 1,
		ended: make(chan struct{}), resets: map[http2.ErrCode]int{},
	}
	p.Framer = http2.NewFramer(p.Writer, bufio.NewReader(c))
	p.AllowIllegalWrites = true
	p.enc = hpack.NewEncoder(&p.block)
	t.Cleanup(func() { c.Close() })
	p.WriteString(http2.ClientPreface)
	p.WriteSettings(settings...)
	p.Flush()
	return p
}

// read takes in what the proxy says until it closes the connection.
func (p *peer) read() {
	defer close(p.ended)
	for {
		f, err := p.ReadFrame()
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			p.goAway = &f.ErrCode
		case *http2.RSTStreamFrame:
			p.resets[f.ErrCode]++
		}
		if err != nil {
			p.cause = err
			return
		}
	}
}

// mustEnd waits until the proxy closes the connection, and checks that it says one of the codes before.
func (p *peer) mustEnd(codes []http2.ErrCode) {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("the proxy keeps the connection")
	}
	if p.goAway == nil && errors.Is(p.cause, syscall.ECONNRESET) {
		return // TCP drops what is on its way, GOAWAY included, when an end is closed that has bytes to read
	}
	if p.goAway == nil || !slices.Contains(codes, *p.goAway) {
		p.t.Errorf("the connection ends with %v after GOAWAY with %v, want one of %v", p.cause, p.goAway, codes)
	}
}

// open begins a call to "hello".
func (p *peer) open(whole bool) (stream uint32) {
	stream = p.nextID
	p.nextID += 2
	p.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: p.request("hello"), EndHeaders: true, EndStream: whole,
	})
	return stream
}

// request is the field block of a call.
func (p *peer) request(service string, more ...string) []byte {
	return p.fields(append([]string{
		":method", "POST", ":scheme", "http", ":path", "/helloworld.Greeter/SayHello", ":authority", service,
		"content-type", "application/grpc", "te", "trailers",
	}, more...)...)
}

// fields is a field block, given as name, value, name, value. It is valid until the next.
func (p *peer) fields(kv ...string) []byte {
	p.block.Reset()
	for i := 0; i < len(kv); i += 2 {
		p.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	return p.block.Bytes()
}

// bomb is a field block that is small and means very much: it refers to a large field again and again.
func (p *peer) bomb() []byte {
	block := bytes.Clone(p.request("hello", "bomb", strings.Repeat("x", 3_000)))
	const newest = 62 // index of the field that was added to the table last
	return append(block, bytes.Repeat([]byte{0x80 | newest}, 12_000)...)
}
