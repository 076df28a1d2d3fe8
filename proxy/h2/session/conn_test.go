package session

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

var requestFields = []hpack.Field{
	{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/a.B/C"},
}

// pair is a client and a server that have greeted.
func pair(t *testing.T) (c, s *end) {
	t.Helper()
	c, s = newEnd(Client), newEnd(Server)
	exchange(t, c, s)
	if !c.Greeted() || !s.Greeted() {
		t.Fatal("the ends have not greeted")
	}
	return c, s
}

// exchange carries bytes between two ends until there are none.
func exchange(t *testing.T, c, s *end) {
	t.Helper()
	for {
		to, from := c.written(), s.written()
		if len(to)+len(from) == 0 {
			return
		}
		s.feed(to)
		c.feed(from)
		c.check(t)
		s.check(t)
	}
}

func (e *end) open(data string, end bool) *call {
	st := e.newCall()
	if len(data) > 0 || end {
		st.Queue([]byte(data), end)
	}
	e.Open(st, requestFields)
	return st.Handler().(*call)
}

// Two sessions of ours understand each other, whatever the windows.
func TestEchoOfMuchData(t *testing.T) {
	c, s := pair(t)
	data := strings.Repeat("0123456789", 100_000)
	call := c.open(data, true)
	exchange(t, c, s)
	if string(c.got) != data || !call.ended || c.calls != 0 || s.calls != 0 {
		t.Errorf("%d bytes have come back of %d; %d and %d calls are left", len(c.got), len(data), c.calls, s.calls)
	}
}

// Room for one more stream is told after the frame that makes it.
func TestSlotsAreToldBetweenFrames(t *testing.T) {
	c, s := pair(t)
	c.slots = 0
	c.open("", true)
	c.open("", true)
	exchange(t, c, s)
	if c.slots < 2 || c.early != 0 || c.Len() != 0 {
		t.Errorf("%d slots are told of 2, %d of them within a frame, and %d streams are open", c.slots, c.early, c.Len())
	}
}

func TestGoAwayResetsWhatIsNotProcessed(t *testing.T) {
	c, s := pair(t)
	first, second := c.open("x", false), c.open("x", false)
	c.feed(h2.AppendGoAway(nil, 1, h2.NoError, "restart"))
	if first.reset != nil || second.reset == nil || *second.reset != (Reset{Code: h2.RefusedStream}) {
		t.Errorf("the streams are reset with %v and %v", first.reset, second.reset)
	}
	if c.AllowsStream() || c.closed != nil {
		t.Errorf("after GOAWAY: streams %v, closed %v", c.AllowsStream(), c.closed)
	}
	first.stream.Queue(nil, true)
	first.stream.Push()
	exchange(t, c, s)
	if !errors.Is(c.closed, ErrFinished) {
		t.Errorf("after the last stream: %v, want %v", c.closed, ErrFinished)
	}
}

func TestDrainInTwoSteps(t *testing.T) {
	c, s := pair(t)
	s.Drain()
	late := c.open("x", true) // on its way when the client learns of it
	exchange(t, c, s)
	if !late.ended || late.lost != nil || !errors.Is(s.closed, ErrFinished) {
		t.Errorf("the call has ended: %v, lost: %v; the server: %v", late.ended, late.lost, s.closed)
	}
}

func TestKeepaliveEndsASilentConnection(t *testing.T) {
	c, _ := pair(t)
	c.KeepAlive(time.Second, time.Second)
	lost := c.open("x", false)
	now := time.Unix(1e9, 0)
	for range 3 {
		c.written()
		now = now.Add(time.Second)
		c.group.SetNow(now)
		c.Expire()
	}
	if !errors.Is(c.closed, ErrKeepalive) || !errors.Is(lost.lost, ErrKeepalive) {
		t.Errorf("the connection: %v, its call: %v", c.closed, lost.lost)
	}
}

func TestPeerThatDoesNotRead(t *testing.T) {
	_, s := pair(t)
	ping := h2.AppendSettings(nil)
	for i := 0; s.closed == nil; i++ {
		if i > 1<<20 {
			t.Fatal("the connection goes on")
		}
		s.glitches.inARow = 0
		s.feed(ping)
	}
	if !errors.Is(s.closed, ErrUnread) {
		t.Errorf("%v, want %v", s.closed, ErrUnread)
	}
}
