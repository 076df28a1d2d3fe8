package session

import (
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

// What RFC 9113, section 8, asks of field blocks. Each check returns what is wrong, or nothing.

// checkRequest also returns content-length; -1 if there is none.
func checkRequest(fields []hpack.Field) (length int64, reason string) {
	var method, scheme, path, authority, host int
	for i := range fields {
		f := &fields[i]
		switch f.Name {
		case ":method":
			method++
		case ":scheme":
			scheme++
		case ":path":
			if path++; f.Value == "" {
				return 0, ":path is empty"
			}
		case ":authority":
			authority++
		case "host":
			host++
		}
	}
	if method != 1 || scheme != 1 || path != 1 || authority > 1 {
		return 0, "a pseudo-header field is missing or there twice"
	}
	if host > 1 {
		return 0, "host is there twice"
	}
	pseudo := method + scheme + path + authority
	return checkRegular(fields[min(pseudo, len(fields)):], fields[:pseudo])
}

func checkResponse(fields []hpack.Field) (length int64, reason string) {
	if len(fields) == 0 || fields[0].Name != ":status" || !validStatus(fields[0].Value) {
		return 0, "the response does not begin with :status"
	}
	return checkRegular(fields[1:], nil)
}

func validStatus(s string) bool {
	return len(s) == 3 && '1' <= s[0] && s[0] <= '9' && '0' <= s[1] && s[1] <= '9' && '0' <= s[2] && s[2] <= '9'
}

func checkTrailers(fields []hpack.Field) (reason string) {
	_, reason = checkRegular(fields, nil)
	return reason
}

// checkRegular checks the fields behind the pseudo-header fields, of which there must be none among them; all
// of pseudo must be such.
func checkRegular(fields, pseudo []hpack.Field) (length int64, reason string) {
	for i := range pseudo {
		if !strings.HasPrefix(pseudo[i].Name, ":") {
			return 0, "a pseudo-header field stands behind others"
		}
		if !httpguts.ValidHeaderFieldValue(pseudo[i].Value) {
			return 0, "a pseudo-header field holds characters that it must not"
		}
	}
	length = -1
	for i := range fields {
		f := &fields[i]
		if f.Name == "" || f.Name[0] == ':' {
			return 0, "a pseudo-header field is unknown or out of its place"
		}
		if !validName(f.Name) || !httpguts.ValidHeaderFieldValue(f.Value) {
			return 0, "a field holds characters that it must not"
		}
		switch f.Name {
		case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
			return 0, "a connection-specific field is there: " + f.Name
		case "te":
			if f.Value != "trailers" {
				return 0, "te is not trailers"
			}
		case "content-length":
			n, err := strconv.ParseUint(f.Value, 10, 62)
			if err != nil || length >= 0 && length != int64(n) {
				return 0, "content-length is no number or two"
			}
			length = int64(n)
		}
	}
	return length, ""
}

func validName(name string) bool {
	for _, c := range []byte(name) {
		if 'A' <= c && c <= 'Z' || !httpguts.IsTokenRune(rune(c)) {
			return false
		}
	}
	return true
}
