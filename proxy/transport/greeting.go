package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"
)

// What a backend does in place of HTTP/2's greeting, its SETTINGS. Every one says how far it came, and what helps.

var errSpeaksTLS = errors.New("TCP connects but HTTP/2 does not: it answers in TLS, and lbproxy speaks to instances " +
	"without; register a port where the server takes that")

const (
	errHTTP1 = "TCP connects but HTTP/2 does not: it answers in HTTP/1, %q; register the port of a gRPC server"
	errOther = "TCP connects but HTTP/2 does not: it answers with %q; register the port of a gRPC server"
	errMute  = "TCP connects but HTTP/2 does not: it has not greeted (SETTINGS) within %s; the process hangs or is overloaded, " +
		"or something else than a gRPC server listens there"
	errCloses = "TCP connects but HTTP/2 does not: it closed before it greeted (SETTINGS)%s; the process was just ending or is " +
		"at a limit, or something else listens there, such as a server that wants TLS"
)

// maxQuote is how much is shown of what a backend says.
const maxQuote = 48

// greetingHead is how many bytes tell frames from anything else: a length, below 64 KiB as long as nobody has allowed
// more, and a type (RFC 9113, section 4.1).
const greetingHead = 4

// ForeignGreeting says what a backend speaks whose first bytes are b: nil for HTTP/2, and if it is too early to tell.
func ForeignGreeting(b []byte) error {
	switch {
	case len(b) < greetingHead, b[0] == 0 && b[3] <= 9:
		return nil
	// A TLS record: an alert or of a handshake, of version 3.x (RFC 8446, section 5.1).
	case (b[0] == 0x15 || b[0] == 0x16) && b[1] == 3:
		return errSpeaksTLS
	case bytes.HasPrefix(b, []byte("HTTP")):
		line, _, _ := bytes.Cut(b, []byte("\r\n"))
		return fmt.Errorf(errHTTP1, line[:min(len(line), maxQuote)])
	}
	return fmt.Errorf(errOther, b[:min(len(b), maxQuote)])
}

// NoGreeting says why a connection was of no use that has ended, because of cause, when no more than b had come.
func NoGreeting(b []byte, cause error) error {
	if err := ForeignGreeting(b); err != nil {
		return err
	}
	why := ""
	if !isClose(cause) {
		why = fmt.Sprintf(": %v", cause)
	}
	return fmt.Errorf(errCloses, why)
}

// isClose says that the other end has closed the connection. It depends on who is quicker what we see of that.
func isClose(err error) bool {
	for _, close := range []error{io.EOF, io.ErrClosedPipe, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, close) {
			return true
		}
	}
	return false
}

// LateGreeting says that a backend has not greeted for so long; b has come meanwhile.
func LateGreeting(b []byte, patience time.Duration) error {
	if err := ForeignGreeting(b); err != nil {
		return err
	}
	return fmt.Errorf(errMute, patience)
}
