package session

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

// check fails the test if what the end says of itself is not sound, or not what it asks its budget for.
func (e *end) check(t *testing.T) {
	t.Helper()
	var a Audit
	err := e.group.Check(&a)
	if err == nil {
		err = e.Check(&a)
	}
	open := 0
	for s := range e.Streams() {
		open++
		if err == nil {
			err = s.Check(&a)
		}
	}
	switch {
	case err != nil:
		t.Fatal(err)
	case open != e.calls:
		t.Fatalf("%d streams are open, %d calls have not ended", open, e.calls)
	case a.Held != e.budget.held || a.Grown != e.budget.grown || a.Remembered != e.budget.remembered:
		t.Fatalf("%+v are held, the budget says %+v", a, e.budget)
	case e.Dead() != (e.closed != nil):
		t.Fatalf("dead: %v, closed: %v", e.Dead(), e.closed)
	}
}

// wellFormed fails the test if b is not frames that x/net reads.
func wellFormed(t *testing.T, r Role, b []byte) {
	t.Helper()
	if r == Client {
		b = bytes.TrimPrefix(b, []byte(h2.ClientPreface))
	}
	for len(b) > 0 {
		h := h2.ParseFrameHeader(b)
		if len(b) < h2.FrameHeaderLen+int(h.Length) {
			t.Fatalf("a frame of %d bytes is cut", h.Length)
		}
		if err := h.Check(1<<24 - 1); err != nil {
			t.Fatalf("%+v: %v", h, err)
		}
		b = b[h2.FrameHeaderLen+int(h.Length):]
	}
}

// FuzzSession feeds a session bytes in parts, with time between them. It must not panic, what it writes must be frames,
// and what it says that it holds must be what it holds.
func FuzzSession(f *testing.F) {
	var valid bytes.Buffer
	fr := http2.NewFramer(&valid, nil)
	fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, field := range []string{":method", "POST", ":scheme", "http", ":path", "/a/b"} {
		_ = enc.WriteField(hpack.HeaderField{Name: field, Value: "x"})
	}
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	fr.WriteData(1, false, make([]byte, 300))
	fr.WritePing(false, [8]byte{})
	fr.WriteWindowUpdate(1, 200)
	fr.WriteRSTStream(1, http2.ErrCodeCancel)
	fr.WriteGoAway(0, http2.ErrCodeNo, nil)
	f.Add(true, uint8(7), valid.Bytes())
	f.Add(false, uint8(200), valid.Bytes())
	f.Add(false, uint8(1), []byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Fuzz(func(t *testing.T, server bool, part uint8, b []byte) {
		role := Client
		if server {
			role = Server
			b = append([]byte(h2.ClientPreface), b...)
		}
		e := newEnd(role)
		now := time.Unix(1e9, 0)
		for i := 0; len(b) > 0; i++ {
			if role == Client && i%4 == 1 && e.Greeted() && e.AllowsStream() {
				s := e.newCall()
				s.Queue(make([]byte, i), i%8 == 1)
				e.Open(s, requestFields)
			}
			n := min(1+int(part)*(1+i%3), len(b))
			e.feed(b[:n])
			b = b[n:]
			if i%5 != 4 {
				wellFormed(t, role, e.written())
			}
			e.check(t)
			now = now.Add(time.Duration(part) * time.Millisecond)
			e.group.SetNow(now)
			e.Expire()
		}
		wellFormed(t, role, e.written())
		e.Close(ErrFinished)
		wellFormed(t, role, e.written())
		if e.check(t); e.budget != (budget{}) {
			t.Errorf("left in the end: %+v", e.budget)
		}
	})
}
