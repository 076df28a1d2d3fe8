package transport

import (
	"bytes"
	"fmt"
	"net"

	"go.uber.org/zap"
)

// Foreign is what a caller speaks that does not begin as HTTP/2 without TLS does.
type Foreign struct {
	Protocol string // HTTP/1.1, TLS or "something else"
	Answer   []byte // in that protocol, for who looks at the caller; nil if there is none
}

func (f *Foreign) Error() string {
	return fmt.Sprintf("the caller speaks %s, and this port HTTP/2 without TLS", f.Protocol)
}

// Log says who it was, and where.
func (f *Foreign) Log(log *zap.Logger, peer net.Addr, listener string) {
	log.Warn("a caller is turned away: it speaks "+f.Protocol+", and the port of calls HTTP/2 without TLS",
		zap.Stringer("address", peer), zap.String("listener", listener))
}

// maxRequestLine is within how many bytes the first line of a request in HTTP/1.1 must end to be known as one.
const maxRequestLine = 8 << 10

// A TLS record's first bytes (RFC 8446, section 5.1), and the alert that no version of it is spoken here (6.2).
const (
	tlsHandshake = 0x16
	tlsMajor     = 3
)

var tlsAlert = []byte{0x15, tlsMajor, 1, 0, 2, 2 /* fatal */, 70 /* protocol_version */}

// Recognize judges by what a caller has said so far what it speaks, if that is not how HTTP/2 begins. It returns nil as
// long as that does not tell. Admin is where health checks are answered.
func Recognize(said []byte, admin string) *Foreign {
	if len(said) == 0 {
		return nil
	}
	if said[0] == tlsHandshake {
		switch {
		case len(said) == 1:
			return nil
		case said[1] == tlsMajor:
			return &Foreign{"TLS", tlsAlert}
		}
	}
	request := bytes.TrimLeft(said, "\r\n") // empty lines may stand before it (RFC 9112, section 2.2)
	line, _, whole := bytes.Cut(request, []byte("\n"))
	if !whole && len(said) <= maxRequestLine && isText(line) {
		return nil
	}
	if whole && bytes.Contains(line, []byte(" HTTP/1.")) {
		return &Foreign{"HTTP/1.1", answerHTTP1(bytes.HasPrefix(line, []byte("HEAD ")), admin)}
	}
	return &Foreign{Protocol: "something else"}
}

func isText(line []byte) bool {
	for _, c := range line {
		if (c < ' ' || c > '~') && c != '\r' {
			return false
		}
	}
	return true
}

// answerHTTP1 is a response that ends the connection (RFC 9110, section 15.5.22). An upgrade to h2c is none of what it
// offers: it is how HTTP/2 began once, and does no more (RFC 9113, section 3.1).
func answerHTTP1(head bool, admin string) []byte {
	content := fmt.Sprintf("lbproxy: this port speaks gRPC, in HTTP/2 without TLS and without an upgrade from HTTP/1.1; "+
		"health checks and metrics are at http://%s (/healthz, /readyz, /metrics)\n", admin)
	answer := fmt.Appendf(nil, "HTTP/1.1 426 Upgrade Required\r\nUpgrade: HTTP/2.0\r\nConnection: Upgrade, close\r\n"+
		"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n", len(content))
	if head {
		return answer
	}
	return append(answer, content...)
}
