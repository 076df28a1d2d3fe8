package relay

import (
	"fmt"
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
)

// OnGoAway implements [session.Handler].
func (c *conn) OnGoAway(said *session.GoAwayError) {
	e := &goAwayError{GoAwayError: said}
	if said.Code == h2.EnhanceYourCalm {
		e.pingInterval = c.pingLess(said.Text)
	}
	c.handshake.goneAway = e
	c.pool.onGone(c, e)
}

// goAwayError is a backend's GOAWAY.
type goAwayError struct {
	*session.GoAwayError
	pingInterval time.Duration // what comes of it; 0 for nothing
}

func (e *goAwayError) Error() string {
	text := "the backend has sent " + e.GoAwayError.Error()
	if e.pingInterval > 0 {
		text += fmt.Sprintf("; it is asked by PINGs every %s from now on, raise keepalive.time for its service", e.pingInterval)
	}
	return text
}

// graceful says that the backend has nothing against us.
func (e *goAwayError) graceful() bool { return e.Code == h2.NoError }

// because is what is told of the connection's end, which err is the cause of.
func (h *handshake) because(err error) error {
	if h.goneAway == nil || session.IsViolation(err) {
		return err
	}
	return fmt.Errorf("%w, and has ended the connection: %w", h.goneAway, err)
}
