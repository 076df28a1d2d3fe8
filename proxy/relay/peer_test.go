package relay

import (
	"bytes"
	"fmt"
	"net"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
)

type setting = http2.Setting

// peer is the other end of one of the core's connections. It writes and reads with x/net's framer, and keeps
// its own account of what the core may send.
type peer struct {
	w       *world
	c       *conn
	side    side
	paused  bool            // it does not read
	pending *session.Output // what the core has given out and the peer not read
	closed  bool            // the core has closed the connection
	mute    bool            // it reads and does not care
	greeted bool            // it has sent its preface
	hostile bool            // it keeps no account, as it does not know itself what it has sent

	out  bytes.Buffer // to the core
	in   bytes.Buffer // from the core
	fr   *http2.Framer
	dec  *hpack.Decoder
	enc  *hpack.Encoder
	blob bytes.Buffer
	log  []string          // the frames that came, see [peer.note]
	last map[string]string // the fields that came last

	window    int64 // of the connection, for the core to send
	initial   int64
	maxFrame  int
	maxFields uint32 // as SETTINGS_MAX_HEADER_LIST_SIZE counts
	streams   map[uint32]*peerStream
	credit    int64 // of the connection, for the peer to send
	newCredit int64
	next      uint32
	onFrame   func(id uint32, headers, end bool, n int) // an automatic peer's doing
}

type peerStream struct {
	window   int64  // for the core to send
	credit   int64  // for the peer to send
	over     bool   // the core has sent END_STREAM
	reset    bool   // either has reset it
	sent     bool   // the peer has sent END_STREAM
	answered bool   // the peer has begun its response
	received []byte // DATA
}

func newPeer(w *world, s side) *peer {
	p := &peer{
		w: w, side: s, window: 65535, initial: 65535, maxFrame: 16384, maxFields: h2.Unlimited, credit: 65535, newCredit: 65535, next: 1,
		streams: map[uint32]*peerStream{},
	}
	p.fr = http2.NewFramer(&p.out, &p.in)
	p.fr.AllowIllegalWrites = true
	p.dec = hpack.NewDecoder(4096, nil)
	p.fr.ReadMetaHeaders = p.dec
	p.fr.SetMaxReadFrameSize(1<<24 - 1)
	p.fr.MaxHeaderListSize = 8 << 20
	p.enc = hpack.NewEncoder(&p.blob)
	return p
}

// Close implements [netpoll.Driver].
func (p *peer) Close() { p.closed = true }

// Peer implements [netpoll.Driver].
func (p *peer) Peer() net.Addr { return nil }

// Flush takes what the core has for the peer.
func (p *peer) Flush() {
	for !p.paused {
		f := p.c.Conn.Output()
		if f == nil {
			return
		}
		p.take(f)
	}
	if f := p.c.Conn.Output(); f != nil { // nil as long as something is pending
		p.pending = f
	}
}

func (p *peer) pause() { p.paused = true }

// resume reads what has been kept waiting.
func (p *peer) resume() {
	p.paused = false
	if f := p.pending; f != nil {
		p.pending = nil
		p.take(f)
	}
	p.w.core.dirty = append(p.w.core.dirty, p.c)
	p.w.settle()
}

// readOnce reads what has been given out, and no more.
func (p *peer) readOnce() {
	f := p.pending
	p.pending = nil
	p.take(f)
	p.w.step()
}

// take reads what the core has given out, in parts, as sockets take them.
func (p *peer) take(f *session.Output) {
	var chunks [4][]byte
	for part := 1; !f.Empty(); part++ {
		n := 0
		for _, chunk := range f.Chunks(chunks[:0]) {
			if part%3 == 0 {
				chunk = chunk[:(len(chunk)+1)/2]
			}
			p.read(chunk)
			n += len(chunk)
			if part%3 == 0 {
				break
			}
		}
		f.Advance(n)
	}
	p.c.Conn.OutputDone(nil)
}

// read parses what the core has written, and checks it.
func (p *peer) read(b []byte) {
	if p.mute {
		return
	}
	if p.side == backend && bytes.HasPrefix(b, []byte(h2.ClientPreface)) {
		b = b[len(h2.ClientPreface):]
	}
	p.in.Write(b)
	for p.complete() {
		f, err := p.fr.ReadFrame()
		if err != nil {
			p.w.t.Fatalf("the core has written what x/net cannot read: %v: %v", err, p.fr.ErrorDetail())
		}
		p.note(f)
	}
}

// complete says that a whole frame has come, and all that belongs to it.
func (p *peer) complete() bool {
	for b := p.in.Bytes(); len(b) >= h2.FrameHeaderLen; {
		h := h2.ParseFrameHeader(b)
		if b = b[h2.FrameHeaderLen:]; len(b) < int(h.Length) {
			return false
		}
		b = b[h.Length:]
		if h.Type != h2.FrameHeaders && h.Type != h2.FrameContinuation || h.Flags.Has(h2.FlagEndHeaders) {
			return true
		}
	}
	return false
}

func endMark(end bool) string {
	if end {
		return " end"
	}
	return ""
}

// note logs a frame as a word or two: its type, stream, and what matters of it.
func (p *peer) note(f http2.Frame) {
	id := f.Header().StreamID
	st := p.streams[id]
	if id != 0 && p.side == caller && st == nil && !p.hostile {
		p.w.t.Fatalf("%v on a stream that was never opened", f)
	}
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		p.onHeaders(st, f)
	case *http2.DataFrame:
		p.onData(st, f)
	case *http2.RSTStreamFrame:
		p.logf("RST %d %v", id, f.ErrCode)
		if st != nil {
			st.reset = true
		} else if !p.hostile {
			p.w.t.Fatalf("%v on a stream that was never opened", f)
		}
		p.tell(id, false, true, -1)
	case *http2.SettingsFrame:
		if f.IsAck() {
			return
		}
		if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
			p.newCredit = int64(v)
		}
	case *http2.WindowUpdateFrame:
		if id == 0 {
			p.credit += int64(f.Increment)
		} else if st != nil {
			st.credit += int64(f.Increment)
			p.logf("UPDATE %d %d", id, f.Increment)
		}
	case *http2.PingFrame:
		p.logf("PING ack=%v", f.IsAck())
	case *http2.GoAwayFrame:
		p.logf("GOAWAY %d %v", f.LastStreamID, f.ErrCode)
	default:
		p.w.t.Fatalf("the core writes %v", f)
	}
}

func (p *peer) onHeaders(st *peerStream, f *http2.MetaHeadersFrame) {
	id := f.StreamID
	if size := sizeOf(f.Fields); size > p.maxFields && !p.hostile {
		p.w.t.Fatalf("HEADERS on stream %d: %d bytes of fields, of which %d are allowed", id, size, p.maxFields)
	}
	var b strings.Builder
	p.last = map[string]string{}
	for _, field := range f.Fields {
		p.last[field.Name] += field.Value
		switch field.Name {
		case ":status", "grpc-status", "lbproxy-error", "x", "grpc-timeout":
			fmt.Fprintf(&b, " %s=%s", field.Name, field.Value)
		}
	}
	p.logf("HEADERS %d%s%s", id, b.String(), endMark(f.StreamEnded()))
	if st == nil {
		st = &peerStream{window: p.initial, credit: p.newCredit}
		p.streams[id] = st
	}
	if st.over {
		p.w.t.Fatalf("HEADERS on stream %d after its end", id)
	}
	st.over = f.StreamEnded()
	p.tell(id, true, st.over, 0)
}

func sizeOf(fields []hpack.HeaderField) (n uint32) {
	for _, f := range fields {
		n += f.Size()
	}
	return n
}

func (p *peer) onData(st *peerStream, f *http2.DataFrame) {
	n := len(f.Data())
	p.logf("DATA %d %d%s", f.StreamID, n, endMark(f.StreamEnded()))
	if st == nil || st.over {
		p.w.t.Fatalf("DATA on stream %d, which is not open", f.StreamID)
	}
	st.over = f.StreamEnded()
	st.received = append(st.received, f.Data()...)
	st.window -= int64(n)
	p.window -= int64(n)
	if !p.hostile && n > 0 && (st.window < 0 || p.window < 0 || n > p.maxFrame) {
		p.w.t.Fatalf("DATA on stream %d: %d bytes, windows then %d and %d, frames up to %d", f.StreamID, n, st.window, p.window, p.maxFrame)
	}
	p.tell(f.StreamID, false, st.over, n)
}

func (p *peer) tell(id uint32, headers, end bool, n int) {
	if p.onFrame != nil {
		p.onFrame(id, headers, end, n)
	}
}

func (p *peer) logf(format string, args ...any) { p.log = append(p.log, fmt.Sprintf(format, args...)) }

// got returns what came since it was called last.
func (p *peer) got() []string {
	log := p.log
	p.log = nil
	return log
}
