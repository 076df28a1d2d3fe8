package relay

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lbproxy/lbproxy/proxy/relay/netpoll"
)

// What does not begin as HTTP/2 is never sent any of it, however little comes at a time.
func TestForeignCallers(t *testing.T) {
	for _, tt := range []struct{ name, says, answer, cause string }{
		{"HTTP/1.1", "POST /x HTTP/1.1\r\nHost: hello\r\n\r\n", "HTTP/1.1 426 ", "not_http2"},
		{"HTTP/1.1 that begins as HTTP/2 does", "PRI /x HTTP/1.1\r\n\r\n", "HTTP/1.1 426 ", "not_http2"},
		{"TLS", "\x16\x03\x01\x02\x00", "\x15\x03", "not_http2"},
		{"a preface with a fault", "PRI * HTTP/2.0\r\n\r\nSM\r\n\rx", "", "not_http2"},
		{"zeros", "\x00\x00", "", "not_http2"},
		{"text that does not go on", "GET", "", "handshake_timeout"},
		{"a preface that does not go on", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r", "", "handshake_timeout"},
	} {
		for _, size := range []int{1, 3, len(tt.says)} {
			t.Run(tt.name, func(t *testing.T) {
				w := newWorld(t, "a:1")
				c := w.caller()
				c.pause()
				for i := 0; i < len(tt.says); i += size {
					c.raw([]byte(tt.says[i:min(i+size, len(tt.says))]))
					w.step()
				}
				if tt.cause == "handshake_timeout" {
					if c.closed {
						t.Error("the connection ends at once")
					}
					w.pass(time.Minute)
				}
				got := ""
				if c.pending != nil {
					got = string(c.pending.Append(nil))
				}
				if !strings.HasPrefix(got, tt.answer) || tt.answer == "" && got != "" {
					t.Errorf("the caller got %q", got)
				}
				if n := w.metric("lbproxy_connections_ended_total", "cause", tt.cause); n != 1 || !c.closed {
					t.Errorf("%v connections have ended with %s", n, tt.cause)
				}
				c.mute = true
				w.finish()
			})
		}
	}
}

// A caller that is let go before it has spoken is told so in HTTP/2, SETTINGS first.
func TestDrainOfOneThatHasNotSpoken(t *testing.T) {
	w := newWorld(t, "a:1")
	c := w.caller()
	want(t, c)
	c.c.drain()
	w.step()
	if got := c.got(); len(got) != 3 || c.newCredit != streamWindow {
		t.Errorf("the caller got %q and no SETTINGS", got)
	}
	w.finish()
}

// The answer arrives whole, though the caller still sends what nobody reads.
func TestForeignCallersOnEveryDriver(t *testing.T) {
	for _, tt := range []struct {
		name    string
		poller  newPoller
		callers listen
	}{
		{"TCP", netpoll.NewPoller, listenTCP},
		{"Unix", netpoll.NewPoller, listenUnix},
		{"TCP without a poller", noPoller, listenTCP},
		{"Unix without a poller", noPoller, listenUnix},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := startRelay(t, tt.poller, tt.callers, listenTCP)
			network, addr := "tcp", strings.TrimPrefix(r.target, "passthrough:///")
			if path, ok := strings.CutPrefix(addr, "unix:"); ok {
				network, addr = "unix", path
			}
			c, err := net.Dial(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			c.SetDeadline(time.Now().Add(30 * time.Second))
			sent := make(chan struct{})
			go func() { // ends with the connection
				defer close(sent)
				io.WriteString(c, "PUT / HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n"+strings.Repeat("x", 10_000_000))
			}()
			answer, err := io.ReadAll(c)
			if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 426 ") || !strings.HasSuffix(string(answer), "/metrics)\n") {
				t.Errorf("the caller got %q, %v", answer, err)
			}
			c.Close()
			<-sent
			r.stop(t.Context())
		})
	}
}
