package relay

import (
	"bytes"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
)

// raw has the core read b.
func (p *peer) raw(b []byte) {
	for len(b) > 0 && !p.c.Dead() {
		n := copy(p.c.ReadBuf(), b)
		if n == 0 {
			p.w.t.Fatal("the core has no space to read to")
		}
		for more := p.c.Conn.Feed(n); more; {
			p.w.core.flush()
			more = p.c.Conn.Feed(0)
		}
		if p.w.core.sessions.Borrowing() {
			p.w.core.flush()
		}
		p.c.ReleaseReadBuf()
		b = b[n:]
	}
}

// send has the core read what the peer has framed.
func (p *peer) send() {
	p.w.t.Helper()
	b := bytes.Clone(p.out.Bytes())
	p.out.Reset()
	p.raw(b)
	p.w.step()
}

// settings greets, the first time, and changes what the peer says of itself.
func (p *peer) settings(settings ...setting) {
	if p.side == caller && !p.c.Greeted() && !p.greeted {
		p.greeted = true
		p.out.WriteString(h2.ClientPreface)
	}
	p.fr.WriteSettings(settings...)
	for _, s := range settings {
		switch s.ID {
		case http2.SettingInitialWindowSize:
			for _, st := range p.streams {
				st.window += int64(s.Val) - p.initial
			}
			p.initial = int64(s.Val)
		case http2.SettingMaxFrameSize:
			p.maxFrame = int(s.Val)
		case http2.SettingMaxHeaderListSize:
			p.maxFields = s.Val
		case http2.SettingHeaderTableSize:
			p.dec.SetMaxDynamicTableSize(s.Val)
		}
	}
	p.send()
}

func (p *peer) block(fields []string) []byte {
	p.blob.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return p.blob.Bytes()
}

// headers sends a field block of names and values in turn.
func (p *peer) headers(id uint32, end bool, fields ...string) {
	if p.streams[id] == nil {
		p.streams[id] = &peerStream{window: p.initial, credit: p.newCredit}
	}
	p.streams[id].sent = end
	p.inFragments(id, end, maxFrameSize, p.block(fields))
}

var requestFields = []string{
	":method", "POST", ":scheme", "http", ":path", "/hello.Hello/Say", ":authority", "hello",
	"content-type", "application/grpc", "te", "trailers",
}

// request opens a call; more are further fields.
func (p *peer) request(end bool, more ...string) uint32 {
	id := p.next
	p.next += 2
	p.headers(id, end, append(requestFields[:len(requestFields):len(requestFields)], more...)...)
	return id
}

// respond begins a response.
func (p *peer) respond(id uint32) {
	p.headers(id, false, ":status", "200", "content-type", "application/grpc")
}

// trailers ends one.
func (p *peer) trailers(id uint32, status string) { p.headers(id, true, "grpc-status", status) }

// only sends a response that is nothing but a status.
func (p *peer) only(id uint32, status string) {
	p.headers(id, true, ":status", "200", "content-type", "application/grpc", "grpc-status", status)
}

// data sends DATA, as frames that the core takes.
func (p *peer) data(id uint32, data []byte, end bool) {
	for {
		n := min(len(data), maxFrameSize)
		p.fr.WriteData(id, end && n == len(data), data[:n])
		if st := p.streams[id]; st != nil {
			st.credit -= int64(n)
			st.sent = st.sent || end && n == len(data)
		}
		p.credit -= int64(n)
		if data = data[n:]; len(data) == 0 {
			break
		}
	}
	p.send()
}

func (p *peer) reset(id uint32, code http2.ErrCode) {
	p.fr.WriteRSTStream(id, code)
	if st := p.streams[id]; st != nil {
		st.reset = true
	}
	p.send()
}

// grow lets the core send n more bytes.
func (p *peer) grow(id, n uint32) {
	p.fr.WriteWindowUpdate(id, n)
	if id == 0 {
		p.window += int64(n)
	} else if st := p.streams[id]; st != nil {
		st.window += int64(n)
	}
	p.send()
}

func (p *peer) ping() {
	p.fr.WritePing(false, [8]byte{1})
	p.send()
}

func (p *peer) goAway(last uint32) {
	p.fr.WriteGoAway(last, http2.ErrCodeNo, nil)
	p.send()
}

// end is the connection's loss.
func (p *peer) end() {
	p.c.Close(session.ErrFinished)
	p.w.step()
}
