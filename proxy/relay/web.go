package relay

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"

	"google.golang.org/grpc/codes"
)

// webTrailersFlag is set in the first byte of the frame that ends a response in gRPC-Web (grpc/doc/PROTOCOL-WEB.md).
const webTrailersFlag = 0x80

// webContent follows the content of a response in gRPC-Web, for two things that gRPC has HTTP/2 say: whether what has
// come ends with a whole message, and the status.
type webContent struct {
	text    [4]byte  // of base64, that is not decoded yet
	texts   uint8    // how much of it there is
	prefix  [5]byte  // of the frame
	known   uint8    // how much of it has come
	cut     bool     // the caller does not get all that has come
	line    [24]byte // of the trailers: no status needs more
	written uint8    // how long the line is
	left    uint32   // of the frame's payload
}

// between says whether another frame may follow.
func (w *webContent) between() bool {
	return !w.cut && w.texts == 0 && w.known == 0 && w.left == 0 && w.prefix[0]&webTrailersFlag == 0
}

// read takes the next piece of the content, and notes the status in code.
func (w *webContent) read(d dialect, b []byte, code *codes.Code) {
	if d == grpcWeb {
		w.frames(b, code)
		return
	}
	for _, c := range b {
		w.text[w.texts] = c
		if w.texts++; int(w.texts) == len(w.text) {
			var decoded [3]byte
			n, _ := base64.StdEncoding.Decode(decoded[:], w.text[:]) // padding may stand within the content, too
			w.texts = 0
			w.frames(decoded[:n], code)
		}
	}
}

func (w *webContent) frames(b []byte, code *codes.Code) {
	for len(b) > 0 {
		if w.left == 0 {
			w.prefix[w.known] = b[0]
			b = b[1:]
			if w.known++; int(w.known) == len(w.prefix) {
				w.known, w.left = 0, binary.BigEndian.Uint32(w.prefix[1:])
			}
			continue
		}
		payload := b[:min(len(b), int(w.left))]
		w.left -= uint32(len(payload))
		b = b[len(payload):]
		if w.prefix[0] == webTrailersFlag {
			w.trailers(payload, code)
		}
	}
}

func (w *webContent) trailers(b []byte, code *codes.Code) {
	for _, c := range b {
		if c == '\n' {
			w.endLine(code)
			continue
		}
		if int(w.written) < len(w.line) {
			w.line[w.written] = c
			w.written++
		}
	}
	if w.left == 0 {
		w.endLine(code)
	}
}

func (w *webContent) endLine(code *codes.Code) {
	name, value, _ := bytes.Cut(w.line[:w.written], []byte(":"))
	if bytes.EqualFold(name, []byte("grpc-status")) {
		*code = parseStatus(string(bytes.TrimSpace(value)))
	}
	w.written = 0
}
