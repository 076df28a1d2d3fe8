package session

import (
	"testing"

	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

func TestCheckRequest(t *testing.T) {
	good := [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/"}, {":authority", "a"}}
	for _, tt := range []struct {
		name   string
		fields [][2]string
		ok     bool
		length int64
	}{
		{"good", good, true, -1},
		{"length", append(good[:4:4], [2]string{"content-length", "12"}), true, 12},
		{"two equal lengths", append(good[:4:4], [2]string{"content-length", "12"}, [2]string{"content-length", "12"}), true, 12},
		{"two lengths", append(good[:4:4], [2]string{"content-length", "12"}, [2]string{"content-length", "13"}), false, 0},
		{"no authority", good[:3], true, -1},
		{"no path", good[:2], false, 0},
		{"nothing", nil, false, 0},
		{"empty path", [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", ""}}, false, 0},
		{"a name that is empty", append([][2]string{{"", "x"}}, good...), false, 0},
		{"a last name that is empty", append(good[:4:4], [2]string{"", "x"}), false, 0},
		{"a pseudo-header field twice", append(good[:4:4], [2]string{":path", "/"}), false, 0},
		{"a pseudo-header field behind others", append([][2]string{{"a", "b"}}, good...), false, 0},
		{"a pseudo-header field that is none", append(good[:4:4], [2]string{":status", "200"}), false, 0},
		{"upper case", append(good[:4:4], [2]string{"X", "y"}), false, 0},
		{"a line break", append(good[:4:4], [2]string{"x", "y\r\nz"}), false, 0},
		{"a control character", append(good[:4:4], [2]string{"x", "\x01"}), false, 0},
		{"a line break in a pseudo-header field", append(good[:3:3], [2]string{":authority", "a\r\nb"}), false, 0},
		{"bytes beyond ASCII", append(good[:4:4], [2]string{"x", "\xff"}), true, -1},
		{"a name that is no token", append(good[:4:4], [2]string{"x(y)", ""}), false, 0},
		{"connection-specific", append(good[:4:4], [2]string{"connection", "close"}), false, 0},
		{"te", append(good[:4:4], [2]string{"te", "gzip"}), false, 0},
	} {
		var fields []hpack.Field
		for _, f := range tt.fields {
			fields = append(fields, hpack.Field{Name: f[0], Value: f[1]})
		}
		length, reason := checkRequest(fields)
		if (reason == "") != tt.ok || tt.ok && length != tt.length {
			t.Errorf("%s: checkRequest = %d, %q", tt.name, length, reason)
		}
	}
}
