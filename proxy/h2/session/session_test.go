package session

import (
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

var testLimits = Limits{MaxStreams: 100, MaxHeaderList: 64 << 10, MaxGlitches: 1000, MaxUnread: 1 << 20}

// budget is as much as is asked for, and counts it.
type budget struct{ held, grown, remembered int }

func (b *budget) Hold(n int) { b.held += n }
func (b *budget) Room() int  { return 1 << 30 }
func (b *budget) Grow(n int) { b.grown += n }

func (b *budget) Remember(n int) bool {
	b.remembered += n
	return true
}

// end is one end of a connection: a server answers each request with what it is sent, a client does not care.
type end struct {
	Conn
	group  *Group
	budget budget
	closed error
	calls  int // whose streams have not been closed
	slots  int
	inside bool // a frame of a call is being handled
	early  int  // slots that were told then
	got    []byte
}

func newEnd(role Role) *end {
	e := new(end)
	e.group = NewGroup(&testLimits, &e.budget)
	e.group.SetNow(time.Unix(1e9, 0))
	e.Init(e.group, role, e)
	return e
}

// feed reads b as drivers do.
func (e *end) feed(b []byte) {
	for len(b) > 0 && !e.Dead() {
		n := copy(e.ReadBuf(), b)
		b = b[n:]
		for more := e.Feed(n); more; {
			more = e.Feed(0)
		}
		e.group.CopyBorrowed()
		e.ReleaseReadBuf()
		e.group.Settle()
	}
}

// written is what has been written since it was called last.
func (e *end) written() (b []byte) {
	for {
		out := e.Output()
		if out == nil {
			return b
		}
		b = out.Append(b)
		e.OutputDone(nil)
		e.group.Settle()
	}
}

func (e *end) Recognize([]byte) ([]byte, error) { return nil, nil }
func (e *end) OnRejected(Rejection)             {}
func (e *end) OnGreeted()                       {}
func (e *end) OnUnread(err error)               { e.Fail(err) }
func (e *end) OnGoAway(*GoAwayError)            {}
func (e *end) OnOutput()                        {}
func (e *end) OnTimer(time.Duration)            {}

func (e *end) OnSlot() {
	if e.slots++; e.inside {
		e.early++
	}
}

func (e *end) OnFrame() {
	e.inside = false
	e.group.Settle()
}

func (e *end) OnClosed(err error) error {
	e.closed = err
	return err
}

func (e *end) OnRequest() *Stream { return e.newCall() }

// call is a stream, which sends back what it gets.
type call struct {
	end    *end
	stream Stream
	echo   bool
	lost   error
	reset  *Reset
	fields []hpack.Field
	ended  bool
}

func (e *end) newCall() *Stream {
	c := &call{end: e, echo: e.role == Server}
	c.stream.Init(e.group, c, &e.Conn)
	e.calls++
	return &c.stream
}

func (c *call) gone() {
	c.stream.Clear()
	c.end.calls--
}

func (c *call) OnHeaders(fields []hpack.Field, _ uint32, end bool) {
	c.fields = append(c.fields, fields...)
	c.end.inside = true
	if c.echo {
		c.stream.Headers([]hpack.Field{{Name: ":status", Value: "200"}}, end)
	}
	c.finish(end)
}

func (c *call) OnInformational([]hpack.Field) {}

func (c *call) OnTrailers(fields []hpack.Field) {
	c.fields = append(c.fields, fields...)
	if c.echo {
		c.stream.Headers(fields, true)
	}
	c.finish(true)
}

func (c *call) OnData(frame []byte, end bool) {
	data := frame[9:]
	c.end.got = append(c.end.got, data...)
	n := len(data)
	if c.echo && !c.stream.Send(frame, end) {
		c.stream.Queue(data, end)
		c.stream.Push()
		return
	}
	c.stream.Credit(n)
	c.finish(end)
}

func (c *call) OnSent(n int) {
	if c.echo {
		c.stream.Credit(n)
	}
}

func (c *call) OnEnd() { c.finish(c.stream.GotEnd()) }

// finish closes the stream when both sides have ended it.
func (c *call) finish(end bool) {
	c.ended = c.ended || end
	if c.ended && c.stream.Ended() && c.stream.IsOpen() {
		c.stream.Close(0)
		c.gone()
	}
}

func (c *call) OnTooLong([]hpack.Field) {
	c.stream.Close(2)
	c.gone()
}

func (c *call) OnReset(r Reset) {
	c.reset = &r
	c.gone()
}

func (c *call) OnBroken(error) { c.gone() }

func (c *call) OnLost(err error, _ bool) {
	c.lost = err
	c.gone()
}
