package transport

import (
	"fmt"
	"strings"
	"testing"
)

func TestGreetings(t *testing.T) {
	for _, tt := range []struct{ first, want string }{
		{"", ""},
		{"\x00\x00\x12\x04\x00\x00\x00\x00\x00", ""},
		{"\x00\x00", ""},
		{"\x15\x03\x03\x00\x02\x02\x46", "it answers in TLS"},
		{"\x16\x03\x01\x02\x00", "it answers in TLS"},
		{"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", `it answers in HTTP/1, "HTTP/1.1 400 Bad Request"`},
		{"HTTP/1.0 400 " + strings.Repeat("x", 1000), `"HTTP/1.0 400 ` + strings.Repeat("x", maxQuote-13) + `"`},
		{"220 mail ESMTP\r\n", `it answers with "220 mail ESMTP\r\n"`},
		{"SSH-2.0-x", `it answers with "SSH-2.0-x"`},
		{"\x15\x02\x00\x00", "HTTP/2 does not"},
	} {
		got := fmt.Sprint(ForeignGreeting([]byte(tt.first)))
		if tt.want == "" && got != "<nil>" || !strings.Contains(got, tt.want) && tt.want != "" {
			t.Errorf("%q: %s, want %q", tt.first, got, tt.want)
		}
	}
}
