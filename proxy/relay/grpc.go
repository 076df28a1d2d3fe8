package relay

import (
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

// What gRPC says with fields and resets.

// statusFields is the field block of a status that the proxy makes: trailers, or all of the response.
func (c *core) statusFields(err *proxy.Error, trailers bool) []hpack.Field {
	c.status = cleared(c.status)
	if !trailers {
		c.status = append(c.status,
			hpack.Field{Name: ":status", Value: "200"},
			hpack.Field{Name: "content-type", Value: "application/grpc"})
	}
	c.status = append(c.status,
		hpack.Field{Name: "grpc-status", Value: strconv.Itoa(int(err.Code))},
		hpack.Field{Name: "grpc-message", Value: percentEncode(err.Message)},
		hpack.Field{Name: proxy.ErrorTrailer, Value: string(err.Reason)})
	return c.status
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

// statusOf is the gRPC status in the fields that end a response.
func statusOf(fields []hpack.Field) codes.Code {
	for _, f := range fields {
		if f.Name == "grpc-status" {
			if n, err := strconv.ParseUint(f.Value, 10, 32); err == nil {
				return codes.Code(n)
			}
		}
	}
	return codes.Unknown
}

func isGRPC(fields []hpack.Field) bool {
	for _, f := range fields {
		if f.Name == "content-type" {
			return strings.HasPrefix(f.Value, "application/grpc")
		}
	}
	return false
}

var timeoutUnits = []struct {
	suffix byte
	unit   time.Duration
}{
	{'n', time.Nanosecond},
	{'u', time.Microsecond},
	{'m', time.Millisecond},
	{'S', time.Second},
	{'M', time.Minute},
	{'H', time.Hour},
}

// maxTimeout is the largest number that grpc-timeout holds: eight digits.
const maxTimeout = 99_999_999

func parseTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if err != nil {
		return 0, false
	}
	for _, u := range timeoutUnits {
		if u.suffix == s[len(s)-1] {
			if n > uint64((1<<63-1)/u.unit) {
				return 1<<63 - 1, true
			}
			return time.Duration(n) * u.unit, true
		}
	}
	return 0, false
}

// formatTimeout is d, or a little more, in the finest unit that eight digits allow.
func formatTimeout(d time.Duration) string {
	d = max(d, 0)
	for _, u := range timeoutUnits {
		n := d / u.unit
		if d%u.unit > 0 {
			n++
		}
		if n <= maxTimeout {
			return strconv.FormatInt(int64(n), 10) + string(u.suffix)
		}
	}
	return strconv.Itoa(maxTimeout) + "H"
}

// codeOf is the status that a caller's library makes of a reset stream (the gRPC HTTP/2 protocol, Errors).
func codeOf(code h2.ErrCode) codes.Code {
	switch code {
	case h2.RefusedStream:
		return codes.Unavailable
	case h2.Cancel:
		return codes.Canceled
	case h2.EnhanceYourCalm:
		return codes.ResourceExhausted
	case h2.InadequateSecurity:
		return codes.PermissionDenied
	}
	return codes.Internal
}
