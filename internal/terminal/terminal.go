// Package terminal shows text that changes in place, and tells terminals from files and pipes.
package terminal

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Is reports whether w writes to a terminal.
func Is(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), ioctlReadTermios)
	return err == nil
}

// A Screen is a terminal whose last lines are redrawn in place. What is written to it appears above them. It may be used
// from many goroutines.
type Screen struct {
	// Immutable:
	out  io.Writer
	size func() (columns, lines int)

	mu    sync.Mutex // protects:
	drawn []string
}

// NewScreen returns a screen on w, or nil if w is not a terminal or has no size.
func NewScreen(w io.Writer) *Screen {
	f, ok := w.(*os.File)
	if !ok || !Is(w) {
		return nil
	}
	size := func() (columns, lines int) {
		s, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
		if err != nil {
			return 0, 0
		}
		return int(s.Col), int(s.Row)
	}
	if columns, lines := size(); columns == 0 || lines == 0 {
		return nil
	}
	return &Screen{out: f, size: size}
}

// Write writes whole lines above the drawn ones.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(p), s.repaint(p, s.drawn)
}

// Draw replaces the drawn lines by those of text, as far as they fit.
func (s *Screen) Draw(text string) error {
	columns, height := s.size()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) >= height {
		// The cursor is in the line after the drawn ones; lines that have scrolled away could not be redrawn.
		lines = lines[:max(0, height-1)]
	}
	for i, l := range lines {
		if runes := []rune(l); len(runes) > columns {
			lines[i] = string(runes[:columns])
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.repaint(nil, lines)
}

// Keep leaves the drawn lines as they are; what comes next goes below.
func (s *Screen) Keep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drawn = nil
}

// repaint overwrites the drawn lines with above, and draws lines below it. The caller holds mu.
func (s *Screen) repaint(above []byte, lines []string) error {
	var b bytes.Buffer
	if n := len(s.drawn); n > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", n) // up to the first line, and clear everything below
	}
	b.Write(above)
	for _, l := range lines {
		b.WriteString(l + "\n")
	}
	s.drawn = lines
	_, err := s.out.Write(b.Bytes()) // in one write, so that it does not flicker
	return err
}
