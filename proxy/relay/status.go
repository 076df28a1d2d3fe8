package relay

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
)

// How callers are told of the statuses that the proxy makes.

// dialect is how a call's end is told of: to a caller, or by a response.
type dialect uint8

const (
	plainHTTP   dialect = iota // by :status alone
	grpcHTTP2                  // in trailers
	grpcWeb                    // in the last frame of the content
	grpcWebText                // so, and all of the content is in base64
)

func (d dialect) isWeb() bool { return d >= grpcWeb }

// dialectOf is what a content-type stands for. GRPC's is application/grpc, and behind it nothing, a subtype or
// parameters; what goes on otherwise is another protocol.
func dialectOf(contentType string) dialect {
	if contentType == "application/grpc" { // nearly all
		return grpcHTTP2
	}
	media, _, _ := strings.Cut(contentType, ";")
	name, _, _ := strings.Cut(media, "+")
	switch name = strings.Trim(name, " \t"); {
	case strings.EqualFold(name, "application/grpc"):
		return grpcHTTP2
	case strings.EqualFold(name, "application/grpc-web"):
		return grpcWeb
	case strings.EqualFold(name, "application/grpc-web-text"), strings.EqualFold(name, "application/grpc-web-text-base64"):
		return grpcWebText
	}
	return plainHTTP
}

// valueOf is the value of a field; empty if it is not there.
func valueOf(fields []hpack.Field, name string) string {
	for i := range fields {
		if fields[i].Name == name {
			return fields[i].Value
		}
	}
	return ""
}

// wants is the dialect of a call, and the content-type that an answer in it has: the call's own, as libraries compare
// the two. But a gRPC-Web caller may send binary content, and ask for text by accept.
func (x *exchange) wants() (_ dialect, contentType string) {
	contentType = valueOf(x.request, "content-type")
	d := dialectOf(contentType)
	if d == grpcWeb {
		if accept := valueOf(x.request, "accept"); dialectOf(accept) == grpcWebText {
			return grpcWebText, accept
		}
	}
	return d, contentType
}

// tell ends the response with a status of the proxy's own, as far as that can be said still.
func (x *exchange) sendStatus(c *core, err *proxy.Error) {
	begun := x.headed
	d, contentType := x.wants()
	if begun && (x.speaks != plainHTTP || d != grpcHTTP2) {
		d = x.speaks
	}
	switch {
	case d == grpcHTTP2:
		x.headers(c.statusFields(err, contentType, begun), true)
	case d.isWeb() && !begun:
		x.answer(c.fieldsOf("200", contentType), webTrailers(d, err))
	case d.isWeb() && x.web.between() && x.lead().stream.Unmeasured():
		x.sendContent(webTrailers(d, err))
	case !begun:
		x.answerInHTTP(c, err)
	default:
		// The caller must not take what it has got for all of it (RFC 9113, section 8.1.1).
		x.abort(c)
	}
}

// abort ends the response of a call that has ended without a word.
func (x *exchange) abort(c *core) {
	x.caller.Discard()
	x.caller.Close(h2.InternalError)
	x.release(c)
}

// answer sends a response of the proxy's own that has content.
func (x *exchange) answer(fields []hpack.Field, content []byte) {
	x.answered = true
	x.headers(fields, false)
	if x.caller.IsOpen() { // else the fields were too long for it
		x.sendContent(content)
	}
}

// say ends a response with content of the proxy's own.
func (x *exchange) sendContent(content []byte) {
	x.respond(append(make([]byte, h2.FrameHeaderLen), content...), true)
}

// answerInHTTP is the answer to a caller that speaks no gRPC.
func (x *exchange) answerInHTTP(c *core, err *proxy.Error) {
	content := err.Message + "\n"
	fields := append(c.fieldsOf(strconv.Itoa(err.HTTPStatus()), "text/plain; charset=utf-8"),
		hpack.Field{Name: "content-length", Value: strconv.Itoa(len(content))},
		hpack.Field{Name: proxy.ErrorTrailer, Value: string(err.Reason)})
	if valueOf(x.request, ":method") == "HEAD" {
		x.headers(fields, true)
		return
	}
	x.answer(fields, []byte(content))
}

// fieldsOf begins a response of the proxy's own.
func (c *core) fieldsOf(status, contentType string) []hpack.Field {
	c.status = append(session.Cleared(c.status), hpack.Field{Name: ":status", Value: status},
		hpack.Field{Name: "content-type", Value: contentType})
	return c.status
}

// statusFields is the field block of a status in gRPC: trailers, or all of the response.
func (c *core) statusFields(err *proxy.Error, contentType string, trailers bool) []hpack.Field {
	fields := session.Cleared(c.status)
	if !trailers {
		fields = c.fieldsOf("200", contentType)
	}
	c.status = append(fields,
		hpack.Field{Name: "grpc-status", Value: strconv.Itoa(int(err.Code))},
		hpack.Field{Name: "grpc-message", Value: percentEncode(err.Message)},
		hpack.Field{Name: proxy.ErrorTrailer, Value: string(err.Reason)})
	return c.status
}

// shortened is the fields of a status with as much of its message as fits, and without the reason if they must; nil if
// the caller does not take that much.
func shortened(fields []hpack.Field, most int) []hpack.Field {
	for _, name := range []string{"grpc-message", proxy.ErrorTrailer} {
		excess := session.FieldsSize(fields) - most
		i := slices.IndexFunc(fields, func(f hpack.Field) bool { return f.Name == name })
		switch {
		case excess <= 0:
			return fields
		case i < 0:
		case name == "grpc-message" && len(fields[i].Value) > excess:
			fields[i] = hpack.Field{Name: name, Value: cutMessage(fields[i].Value, len(fields[i].Value)-excess)}
		default:
			fields = slices.Delete(fields, i, i+1)
		}
	}
	if session.FieldsSize(fields) > most {
		return nil
	}
	return fields
}

// cutMessage is the first n bytes of an encoded message, without a part of an escape.
func cutMessage(s string, n int) string {
	if i := strings.LastIndexByte(s[:n], '%'); i >= 0 && i > n-len("%XX") {
		n = i
	}
	return s[:n]
}

// webTrailers is the frame of a status in gRPC-Web.
func webTrailers(d dialect, err *proxy.Error) []byte {
	fields := fmt.Sprintf("grpc-status: %d\r\ngrpc-message: %s\r\n%s: %s\r\n",
		err.Code, percentEncode(err.Message), proxy.ErrorTrailer, err.Reason)
	frame := append(binary.BigEndian.AppendUint32([]byte{webTrailersFlag}, uint32(len(fields))), fields...)
	if d == grpcWebText {
		return base64.StdEncoding.AppendEncode(nil, frame)
	}
	return frame
}

// percentEncode is how a message stands in grpc-message: all but printable ASCII, and the percent sign itself,
// as %XX.
func percentEncode(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
			continue
		}
		const hex = "0123456789ABCDEF"
		b.Write([]byte{'%', hex[c>>4], hex[c&15]})
	}
	return b.String()
}
