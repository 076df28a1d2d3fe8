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
func (st *stream) wants() (_ dialect, contentType string) {
	contentType = valueOf(st.request, "content-type")
	d := dialectOf(contentType)
	if d == grpcWeb {
		if accept := valueOf(st.request, "accept"); dialectOf(accept) == grpcWebText {
			return grpcWebText, accept
		}
	}
	return d, contentType
}

// tell ends the response with a status of the proxy's own, as far as that can be said still.
func (st *stream) tell(c *core, err *proxy.Error) {
	begun := st.half[caller].headed
	d, contentType := st.wants()
	if begun && (st.speaks != plainHTTP || d != grpcHTTP2) {
		d = st.speaks
	}
	switch {
	case d == grpcHTTP2:
		st.headers(backend, c.statusFields(err, contentType, begun), true)
	case d.isWeb() && !begun:
		st.answer(c.fieldsOf("200", contentType), webTrailers(d, err))
	case d.isWeb() && st.web.between() && st.half[backend].expected < 0:
		st.say(webTrailers(d, err))
	case !begun:
		st.answerInHTTP(c, err)
	default:
		// The caller must not take what it has got for all of it (RFC 9113, section 8.1.1).
		st.abort(c)
	}
}

// abort ends the response of a call that has ended without a word.
func (st *stream) abort(c *core) {
	c.discardQueue(st, &st.half[caller])
	st.close(caller, h2.InternalError)
	c.release(st)
}

// answer sends a response of the proxy's own that has content.
func (st *stream) answer(fields []hpack.Field, content []byte) {
	st.answered = true
	st.headers(backend, fields, false)
	if st.half[caller].conn != nil { // else the fields were too long for it
		st.say(content)
	}
}

// say ends a response with content of the proxy's own.
func (st *stream) say(content []byte) {
	st.relay(backend, append(make([]byte, h2.FrameHeaderLen), content...), true)
}

// answerInHTTP is the answer to a caller that speaks no gRPC.
func (st *stream) answerInHTTP(c *core, err *proxy.Error) {
	content := err.Message + "\n"
	fields := append(c.fieldsOf(strconv.Itoa(err.HTTPStatus()), "text/plain; charset=utf-8"),
		hpack.Field{Name: "content-length", Value: strconv.Itoa(len(content))},
		hpack.Field{Name: proxy.ErrorTrailer, Value: string(err.Reason)})
	if valueOf(st.request, ":method") == "HEAD" {
		st.headers(backend, fields, true)
		return
	}
	st.answer(fields, []byte(content))
}

// fieldsOf begins a response of the proxy's own.
func (c *core) fieldsOf(status, contentType string) []hpack.Field {
	c.status = append(cleared(c.status), hpack.Field{Name: ":status", Value: status},
		hpack.Field{Name: "content-type", Value: contentType})
	return c.status
}

// statusFields is the field block of a status in gRPC: trailers, or all of the response.
func (c *core) statusFields(err *proxy.Error, contentType string, trailers bool) []hpack.Field {
	fields := cleared(c.status)
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
		excess := fieldsSize(fields) - most
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
	if fieldsSize(fields) > most {
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
