package session

import (
	"slices"
	"testing"
)

func TestOutput(t *testing.T) {
	whole := func() *Output {
		return &Output{frames: []byte("abcdef"), pieces: []piece{
			{at: 0, data: []byte("1")}, {at: 2, data: []byte("234")}, {at: 2, data: []byte("5")}, {at: 6, data: []byte("67")},
		}}
	}
	const want = "1ab2345cdef67"
	for step := 1; step <= len(want); step++ {
		f, got := whole(), ""
		for !f.Empty() {
			rest := string(f.Append(nil))
			chunks := slices.Concat(f.Chunks(make([][]byte, 0, 10))...)
			if rest != want[len(got):] || string(chunks) != rest {
				t.Fatalf("behind %q stands %q, in chunks %q", got, rest, chunks)
			}
			n := min(step, len(rest))
			got += rest[:n]
			f.Advance(n)
		}
		if got != want {
			t.Errorf("in steps of %d: %q, want %q", step, got, want)
		}
	}
	if got := whole().Chunks(make([][]byte, 0, 2)); len(got) != 2 || string(got[1]) != "ab" {
		t.Errorf("the first two chunks are %q", got)
	}
}
