package relay

import (
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

// What calls say of themselves in gRPC, with fields and resets.

// begins notes what the fields that begin a response say of its status.
func (x *exchange) begins(fields []hpack.Field) {
	status := fields[0].Value
	x.speaks = plainHTTP
	if status == "200" { // else it is no gRPC's, whatever it says that it is
		x.speaks = dialectOf(valueOf(fields, "content-type"))
	}
	x.code = codeOfHTTP(status)
	if x.speaks == plainHTTP && status[0] == '2' {
		if d, _ := x.wants(); d == plainHTTP {
			x.code = codes.OK
		}
	}
}

// ends notes the status in the fields that end a response. Where it is not there, what is known of it stands.
func (x *exchange) ends(fields []hpack.Field) {
	if status := valueOf(fields, "grpc-status"); status != "" {
		x.code = parseStatus(status)
	}
}

// rejected says whether the response is one that no gRPC library reads to its end: its fields decide.
func (x *exchange) rejected() bool {
	d, _ := x.wants()
	return x.answered && x.speaks == plainHTTP && d != plainHTTP
}

func parseStatus(s string) codes.Code {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return codes.Unknown
	}
	return codes.Code(n)
}

// codeOfHTTP is the status that a caller's library makes of a response without one (grpc/doc/http-grpc-status-mapping.md).
func codeOfHTTP(status string) codes.Code {
	switch status {
	case "400", "431":
		return codes.Internal
	case "401":
		return codes.Unauthenticated
	case "403":
		return codes.PermissionDenied
	case "404":
		return codes.Unimplemented
	case "429", "502", "503", "504":
		return codes.Unavailable
	}
	return codes.Unknown
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
