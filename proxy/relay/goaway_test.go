package relay

import (
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

func TestGoAwayIsTold(t *testing.T) {
	w, c, b := pair(t)
	c.request(true)
	b.fr.WriteGoAway(1, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings\x00"+strings.Repeat("x", 1000)))
	b.send()
	const says = `the backend has sent GOAWAY ENHANCE_YOUR_CALM "too_many_pings\x00xxx`
	if got := b.c.handshake.err.Error(); !strings.HasPrefix(got, says) || len(got) > 300 {
		t.Errorf("the connection is over because %s; want %s", got, says)
	}
	b.end()
	want(t, c, "HEADERS 1 :status=200 grpc-status=14 lbproxy-error=backend_lost end")
	if got := c.last["grpc-message"]; !strings.Contains(got, says) {
		t.Errorf("the call's status says %q; want %s", got, says)
	}
	w.finish()
}

func TestGoAwayFlood(t *testing.T) {
	w, c, b := pair(t)
	c.request(true)
	for range testConfig.MaxGlitches + 1 {
		b.fr.WriteGoAway(1, http2.ErrCodeNo, nil)
	}
	b.send()
	if !b.closed || w.ended(backend, "glitches") != 1 {
		t.Error("the connection goes on")
	}
	want(t, c, "HEADERS 1 :status=200 grpc-status=13 lbproxy-error=backend_protocol end")
	w.finish()
}
