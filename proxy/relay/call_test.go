package relay

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
)

// pair is a world of one caller and one backend.
func pair(t testing.TB, settings ...setting) (w *world, c, b *peer) {
	w = newWorld(t, "a:1")
	b = w.backend("a:1", settings...)
	c = w.caller()
	c.settings()
	c.got()
	b.got()
	return w, c, b
}

func want(t testing.TB, p *peer, frames ...string) {
	t.Helper()
	if diff := cmp.Diff(frames, p.got()); diff != "" {
		t.Errorf("the %s got other frames (-want +got):\n%s", [...]string{"caller", "backend"}[p.side], diff)
	}
}

func TestUnary(t *testing.T) {
	w, c, b := pair(t)
	id := c.request(false)
	c.data(id, []byte("request"), true)
	want(t, b, "HEADERS 1", "DATA 1 7 end")
	b.respond(1)
	b.data(1, []byte("response"), false)
	b.trailers(1, "0")
	want(t, c, "HEADERS 1 :status=200", "DATA 1 8", "HEADERS 1 grpc-status=0 end")
	if got := string(c.streams[id].received); got != "response" {
		t.Errorf("the caller got %q", got)
	}
	want(t, b)
	w.finish()
}

func TestEnds(t *testing.T) {
	for _, tt := range []struct {
		name            string
		do              func(w *world, c, b *peer)
		caller, backend []string
	}{
		{
			name: "Trailers-Only",
			do: func(w *world, c, b *peer) {
				c.data(c.request(false), []byte("x"), true)
				b.only(1, "5")
			},
			caller:  []string{"HEADERS 1 :status=200 grpc-status=5 end"},
			backend: []string{"HEADERS 1", "DATA 1 1 end"},
		},
		{
			name: "a request without a body",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.only(1, "0")
			},
			caller:  []string{"HEADERS 1 :status=200 grpc-status=0 end"},
			backend: []string{"HEADERS 1 end"},
		},
		{
			name: "the caller half-closes first",
			do: func(w *world, c, b *peer) {
				id := c.request(false)
				b.respond(1)
				c.data(id, nil, true)
				b.data(1, []byte("xy"), false)
				b.trailers(1, "0")
			},
			caller:  []string{"HEADERS 1 :status=200", "DATA 1 2", "HEADERS 1 grpc-status=0 end"},
			backend: []string{"HEADERS 1", "DATA 1 0 end"},
		},
		{
			name: "the backend finishes early",
			do: func(w *world, c, b *peer) {
				id := c.request(false)
				b.only(1, "0")
				c.data(id, []byte("late"), true)
			},
			caller:  []string{"HEADERS 1 :status=200 grpc-status=0 end", "RST 1 NO_ERROR"},
			backend: []string{"HEADERS 1", "RST 1 CANCEL"},
		},
		{
			name: "the caller cancels",
			do: func(w *world, c, b *peer) {
				c.reset(c.request(false), http2.ErrCodeCancel)
				b.respond(1)
				b.data(1, []byte("late"), false)
				b.trailers(1, "0")
			},
			backend: []string{"HEADERS 1", "RST 1 CANCEL"},
		},
		{
			name: "the caller resets with another code",
			do: func(w *world, c, b *peer) {
				c.reset(c.request(false), http2.ErrCodeInternal)
			},
			backend: []string{"HEADERS 1", "RST 1 CANCEL"},
		},
		{
			name: "the backend cancels",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.reset(1, http2.ErrCodeCancel)
			},
			caller:  []string{"RST 1 CANCEL"},
			backend: []string{"HEADERS 1 end"},
		},
		{
			name: "the backend has too many",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.respond(1)
				b.reset(1, http2.ErrCodeEnhanceYourCalm)
			},
			caller:  []string{"HEADERS 1 :status=200", "RST 1 ENHANCE_YOUR_CALM"},
			backend: []string{"HEADERS 1 end"},
		},
		{
			name: "the backend resets after an informational response",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.headers(1, false, ":status", "103")
				b.reset(1, http2.ErrCodeInternal)
			},
			caller:  []string{"HEADERS 1 :status=103", "HEADERS 1 :status=200 grpc-status=13 lbproxy-error=backend_protocol end"},
			backend: []string{"HEADERS 1 end"},
		},
		{
			name: "the backend resets after its headers",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.respond(1)
				b.reset(1, http2.ErrCodeProtocol)
			},
			caller:  []string{"HEADERS 1 :status=200", "HEADERS 1 grpc-status=13 lbproxy-error=backend_protocol end"},
			backend: []string{"HEADERS 1 end"},
		},
		{
			name: "the backend ends gRPC with DATA",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.respond(1)
				b.data(1, []byte("x"), true)
			},
			caller:  []string{"HEADERS 1 :status=200", "DATA 1 1", "HEADERS 1 grpc-status=13 lbproxy-error=backend_protocol end"},
			backend: []string{"HEADERS 1 end"},
		},
		{
			name: "the backend sends DATA first",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.data(1, []byte("x"), false)
			},
			caller:  []string{"HEADERS 1 :status=200 grpc-status=13 lbproxy-error=backend_protocol end"},
			backend: []string{"HEADERS 1 end", "RST 1 PROTOCOL_ERROR"},
		},
		{
			name: "the backend's connection is lost",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.respond(1)
				b.end()
			},
			caller:  []string{"HEADERS 1 :status=200", "HEADERS 1 grpc-status=14 lbproxy-error=backend_lost end"},
			backend: []string{"HEADERS 1 end"},
		},
		{
			name: "the caller's connection is lost",
			do: func(w *world, c, b *peer) {
				c.request(true)
				b.respond(1)
				c.end()
				b.trailers(1, "0")
			},
			caller:  []string{"HEADERS 1 :status=200"},
			backend: []string{"HEADERS 1 end", "RST 1 CANCEL"},
		},
		{
			name: "the deadline runs out before the answer",
			do: func(w *world, c, b *peer) {
				c.request(true, "grpc-timeout", "1S")
				w.pass(900 * time.Millisecond)
				w.pass(200 * time.Millisecond)
			},
			caller:  []string{"HEADERS 1 :status=200 grpc-status=4 lbproxy-error=deadline end"},
			backend: []string{"HEADERS 1 grpc-timeout=1S end", "RST 1 CANCEL"},
		},
		{
			name: "the deadline runs out in the answer",
			do: func(w *world, c, b *peer) {
				c.request(true, "grpc-timeout", "1S")
				b.respond(1)
				b.data(1, []byte("x"), false)
				w.pass(1100 * time.Millisecond)
			},
			caller:  []string{"HEADERS 1 :status=200", "DATA 1 1", "HEADERS 1 grpc-status=4 lbproxy-error=deadline end"},
			backend: []string{"HEADERS 1 grpc-timeout=1S end", "RST 1 CANCEL"},
		},
		{
			name: "the proxy ends",
			do: func(w *world, c, b *peer) {
				c.request(false)
				c.c.drain()
				w.core.failAll()
				w.step()
			},
			caller: []string{
				"GOAWAY 2147483647 NO_ERROR", "PING ack=false",
				"HEADERS 1 :status=200 grpc-status=14 lbproxy-error=draining end", "RST 1 NO_ERROR", "GOAWAY 1 NO_ERROR",
			},
			backend: []string{"HEADERS 1", "RST 1 CANCEL"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c, b := pair(t)
			tt.do(w, c, b)
			want(t, c, tt.caller...)
			want(t, b, tt.backend...)
			w.finish()
		})
	}
}
