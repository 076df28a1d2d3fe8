package hpack_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

func TestPassesKnownFieldsOnWithoutAllocating(t *testing.T) {
	blocks := xBlocks(steady, 5)
	r := newRelay()
	for _, b := range blocks {
		r.pass(b)
	}
	if got := testing.AllocsPerRun(100, func() { r.pass(blocks[4]) }); got != 0 {
		t.Errorf("%v allocations, want none", got)
	}
}

func TestAllocatesOnceForAStringThatIsNew(t *testing.T) {
	for _, hex := range []string{"0406746f6b656e73", "00027465" + "06746f6b656e73", "0485" + "1c6490b2cd"} {
		d, block := hpack.NewDecoder(), unhex(hex)
		var fields []hpack.Field
		if got := testing.AllocsPerRun(100, func() {
			var err error
			if fields, _, err = d.Decode(fields[:0], block, 1000); err != nil {
				t.Fatal(err)
			}
		}); got != 1 {
			t.Errorf("%s: %v allocations, want one", hex, got)
		}
	}
}

func TestFieldsOfALargeBlockAreCutAndCounted(t *testing.T) {
	d := hpack.NewDecoder()
	got, size, err := d.Decode(nil, unhex("8282"+"4001610162"+"82"), 100) // of 42, 42, 34 and 42 bytes
	if err != nil || size != 160 || len(got) != 2 {
		t.Errorf("%d fields of %d bytes, error %v; want the first 2 of 160", len(got), size, err)
	}
	if got, _, err = d.Decode(nil, unhex("be"), 100); err != nil || len(got) != 1 || got[0].Name != "a" {
		t.Errorf("%v, %v: a field that was cut is not in the table", got, err)
	}
}

// A few bytes that stand for many are refused before they are understood.
func TestRefusesABomb(t *testing.T) {
	const maxSize = 16 << 10
	d := hpack.NewDecoder()
	plant := append(unhex("400162"+"7f811e"), strings.Repeat("x", 3968)...) // an entry of 4,001 bytes
	if _, size, err := d.Decode(nil, plant, maxSize); err != nil || size != 4001 {
		t.Fatalf("size %d, %v", size, err)
	}
	bomb := bytes.Repeat(unhex("be"), 1<<20)
	var fields []hpack.Field
	var size uint32
	var err error
	allocs := testing.AllocsPerRun(1, func() { fields, size, err = d.Decode(fields[:0], bomb, maxSize) })
	if !errors.Is(err, hpack.ErrTooLarge) {
		t.Errorf("error %v, want %v", err, hpack.ErrTooLarge)
	}
	if want := uint32(4*maxSize + 4001); size > want {
		t.Errorf("understood %d bytes of fields, want no more than %d", size, want)
	}
	if len(fields) != maxSize/4001 || allocs != 0 {
		t.Errorf("%d fields, %v allocations", len(fields), allocs)
	}
}
