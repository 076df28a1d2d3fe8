package main

import (
	"bytes"
	"fmt"
	"testing"
)

func TestScreenDrawsInPlace(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out, size: func() (columns, lines int) { return 8, 4 }}
	for _, test := range []struct {
		do   func() error
		want string
	}{
		{func() error { _, err := fmt.Fprintln(s, "heading"); return err }, "heading\n"},
		{func() error { return s.draw("one\ntwo\n") }, "one\ntwo\n"},
		{func() error { return s.draw("three\n") }, "\x1b[2A\x1b[Jthree\n"},
		{func() error { _, err := fmt.Fprintln(s, "a line of the log"); return err }, "\x1b[1A\x1b[Ja line of the log\nthree\n"},
		{func() error { return s.draw("1\n2\n3\n4\n5\n") }, "\x1b[1A\x1b[J1\n2\n3\n"},
		{func() error { return s.draw("longer than wide\n") }, "\x1b[3A\x1b[Jlonger t\n"},
		{func() error { s.keep(); _, err := fmt.Fprintln(s, "the end"); return err }, "the end\n"},
	} {
		out.Reset()
		if err := test.do(); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestOnlyATerminalIsAScreen(t *testing.T) {
	if newScreen(&bytes.Buffer{}) != nil {
		t.Error("a buffer is taken for a terminal")
	}
}
