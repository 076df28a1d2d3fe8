package relay

import (
	"testing"

	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
)

// ownCall is a call that the relay makes for itself.
type ownCall struct {
	session.StreamHandler // for what does not happen
	stream                session.Stream
	status                string
	content               []byte
}

func (o *ownCall) OnHeaders([]hpack.Field, uint32, bool) {}
func (o *ownCall) OnSent(int)                            {}
func (o *ownCall) OnEnd()                                {}

func (o *ownCall) OnData(frame []byte, _ bool) {
	o.content = append(o.content, frame[h2.FrameHeaderLen:]...)
	o.stream.Credit(len(frame) - h2.FrameHeaderLen)
}

func (o *ownCall) OnTrailers(fields []hpack.Field) {
	o.status = valueOf(fields, "grpc-status")
	o.stream.Close(h2.Cancel)
	o.stream.Clear()
}

// The relay can make calls of its own on an endpoint's connection, beside those of callers and in turn with them.
func TestCallOfOurOwn(t *testing.T) {
	w, c, b := pair(t, setting{ID: http2.SettingInitialWindowSize, Val: 4})
	c.request(false)
	c.data(1, []byte("of a caller"), true)
	cn := w.first("a:1")
	own := new(ownCall)
	own.stream.Init(w.core.sessions, own, nil)
	own.stream.Queue([]byte("question"), true)
	w.core.step(cn, func() {
		cn.Open(&own.stream, []hpack.Field{
			{Name: ":method", Value: "POST"},
			{Name: ":scheme", Value: "http"},
			{Name: ":path", Value: "/grpc.health.v1.Health/Check"},
			{Name: "content-type", Value: "application/grpc"},
			{Name: "te", Value: "trailers"},
		})
	})
	w.core.flush()
	b.grow(1, 1<<10)
	b.grow(3, 1<<10)
	if got := string(b.streams[3].received); got != "question" || string(b.streams[1].received) != "of a caller" {
		t.Errorf("the backend got %q of ours", got)
	}
	b.respond(3)
	b.data(3, []byte("answer"), false)
	b.trailers(3, "0")
	if string(own.content) != "answer" || own.status != "0" {
		t.Errorf("the answer is %q with status %q", own.content, own.status)
	}
	b.only(1, "0")
	want(t, c, "HEADERS 1 :status=200 grpc-status=0 end")
	w.finish()
}
