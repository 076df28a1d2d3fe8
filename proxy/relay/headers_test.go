package relay

import (
	"math"
	"testing"
	"time"
)

func TestParseTimeout(t *testing.T) {
	for _, tt := range []struct {
		s    string
		want time.Duration
		ok   bool
	}{
		{"1n", 1, true},
		{"20u", 20 * time.Microsecond, true},
		{"300m", 300 * time.Millisecond, true},
		{"4S", 4 * time.Second, true},
		{"5M", 5 * time.Minute, true},
		{"6H", 6 * time.Hour, true},
		{"0S", 0, true},
		{"99999999H", math.MaxInt64, true},
		{"99999999S", 99999999 * time.Second, true},
		{"", 0, false},
		{"S", 0, false},
		{"1", 0, false},
		{"1s", 0, false},
		{"-1S", 0, false},
		{"+1S", 0, false},
		{" 1S", 0, false},
		{"1.5S", 0, false},
		{"100000000S", 0, false},
	} {
		if got, ok := parseTimeout(tt.s); got != tt.want || ok != tt.ok {
			t.Errorf("parseTimeout(%q) = %v, %v, want %v, %v", tt.s, got, ok, tt.want, tt.ok)
		}
	}
}

func TestFormatTimeout(t *testing.T) {
	for _, tt := range []struct {
		d    time.Duration
		want string
	}{
		{-1, "0n"},
		{0, "0n"},
		{1, "1n"},
		{99_999_999, "99999999n"},
		{100_000_000, "100000u"},
		{100_000_001, "100001u"}, // rounded up: never less than what is left
		{time.Hour, "3600000m"},
		{48 * time.Hour, "172800S"},
		{math.MaxInt64, "2562048H"},
		{math.MaxInt64 - time.Duration(time.Millisecond), "2562048H"},
	} {
		got := formatTimeout(tt.d)
		if parsed, ok := parseTimeout(got); !ok || parsed < tt.d {
			t.Errorf("formatTimeout(%d) = %q, which is %v", tt.d, got, parsed)
		}
		if tt.d < time.Duration(1<<60) && got != tt.want {
			t.Errorf("formatTimeout(%v) = %q, want %q", tt.d, got, tt.want)
		}
	}
}

func TestPercentEncode(t *testing.T) {
	for s, want := range map[string]string{
		"":             "",
		"plain ~ !":    "plain ~ !",
		"100 %":        "100 %25",
		"a\nb\x7f\x00": "a%0Ab%7F%00",
		"é":            "%C3%A9",
	} {
		if got := percentEncode(s); got != want {
			t.Errorf("percentEncode(%q) = %q, want %q", s, got, want)
		}
	}
}

func TestHostInPlaceOfAuthority(t *testing.T) {
	base := []string{":method", "POST", ":path", "/hello.Hello/Say", ":scheme", "http"}
	for _, tt := range []struct {
		name   string
		fields []string
		routed bool
		want   map[string]string // of what the backend gets
	}{
		{"host alone", []string{"x", "1", "host", "hello:7070", "te", "trailers"}, true, map[string]string{":authority": "hello:7070", "host": ""}},
		{"both, of the same", []string{":authority", "hello", "host", "hello"}, true, map[string]string{":authority": "hello", "host": "hello"}},
		{"both, and they differ", []string{":authority", "hello", "host", "other"}, true, map[string]string{":authority": "hello", "host": "other"}},
		{"neither", nil, false, nil},
		{"an empty host", []string{"host", ""}, false, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c, b := pair(t)
			w.listener.service = ""
			c.headers(1, true, append(append(base[:len(base):len(base)], tt.fields...), "content-type", "application/grpc")...)
			if !tt.routed {
				want(t, c, "HEADERS 1 :status=200 grpc-status=12 lbproxy-error=no_route end")
				w.finish()
				return
			}
			want(t, b, map[bool]string{true: "HEADERS 1 x=1 end", false: "HEADERS 1 end"}[tt.name == "host alone"])
			for name, value := range tt.want {
				if got := b.last[name]; got != value {
					t.Errorf("the backend got %s %q, want %q", name, got, value)
				}
			}
			b.only(1, "0")
			w.finish()
		})
	}
	t.Run("two hosts", func(t *testing.T) {
		w, c, _ := pair(t)
		c.headers(1, true, append(base[:len(base):len(base)], "host", "hello", "host", "hello")...)
		want(t, c, "RST 1 PROTOCOL_ERROR")
		w.finish()
	})
}
