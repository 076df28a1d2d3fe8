package grpcengine

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/proxy/transport"
)

// greeting is a caller's connection that may not speak HTTP/2. Until it does, what grpc-go says first is held back; one
// that speaks something else is answered in that.
type greeting struct {
	net.Conn
	admin, listener string
	log             *zap.Logger

	said  []byte // by the caller; owned by Read, and nil when that was how HTTP/2 begins
	begun atomic.Bool

	mu   sync.Mutex // protects:
	held []byte
}

// turnedAway is how long a caller may take to read the answer and to close its end.
const turnedAway = time.Second

func (g *greeting) Read(b []byte) (int, error) {
	for {
		n, err := g.Conn.Read(b)
		if g.begun.Load() {
			return n, err
		}
		g.said = append(g.said, b[:n]...)
		if known := min(len(g.said), len(http2.ClientPreface)); string(g.said[:known]) == http2.ClientPreface[:known] {
			if known == len(http2.ClientPreface) {
				g.begin()
			}
			return n, err
		}
		if foreign := transport.Recognize(g.said, g.admin); foreign != nil {
			g.turnAway(foreign)
			return 0, foreign
		}
		if err != nil {
			return 0, err
		}
	}
}

func (g *greeting) Write(b []byte) (int, error) {
	if g.begun.Load() {
		return g.Conn.Write(b)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.begun.Load() {
		return g.Conn.Write(b)
	}
	g.held = append(g.held, b...)
	return len(b), nil
}

// begin lets go of what was held back. If that cannot be written, nothing after it can.
func (g *greeting) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, _ = g.Conn.Write(g.held)
	g.said, g.held = nil, nil
	g.begun.Store(true)
}

func (g *greeting) turnAway(foreign *transport.Foreign) {
	foreign.Log(g.log, transport.Peer(g.Conn), g.listener)
	g.Conn.SetDeadline(time.Now().Add(turnedAway))
	_, _ = g.Conn.Write(foreign.Answer)
	if c, ok := g.Conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
	// Closing with input unread would have TCP take the answer back.
	_, _ = io.Copy(io.Discard, g.Conn)
}
