package terminal

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestScreenDrawsInPlace(t *testing.T) {
	var out bytes.Buffer
	s := &Screen{out: &out, size: func() (columns, lines int) { return 8, 4 }}
	for _, test := range []struct {
		do   func() error
		want string
	}{
		{func() error { _, err := fmt.Fprintln(s, "heading"); return err }, "heading\n"},
		{func() error { return s.Draw("one\ntwo\n") }, "one\ntwo\n"},
		{func() error { return s.Draw("three\n") }, "\x1b[2A\x1b[Jthree\n"},
		{func() error { _, err := fmt.Fprintln(s, "a line of the log"); return err }, "\x1b[1A\x1b[Ja line of the log\nthree\n"},
		{func() error { return s.Draw("1\n2\n3\n4\n5\n") }, "\x1b[1A\x1b[J1\n2\n3\n"},
		{func() error { return s.Draw("longer than wide\n") }, "\x1b[3A\x1b[Jlonger t\n"},
		{func() error { return s.Draw("µµµµµµµµµ\n") }, "\x1b[1A\x1b[Jµµµµµµµµ\n"},
		{func() error { s.Keep(); _, err := fmt.Fprintln(s, "the end"); return err }, "the end\n"},
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
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, w := range []io.Writer{&bytes.Buffer{}, file} {
		if Is(w) || NewScreen(w) != nil {
			t.Errorf("a %T is taken for a terminal", w)
		}
	}
}
