package hpack_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

func TestIndexesFieldsSeenBefore(t *testing.T) {
	e := hpack.NewEncoder()
	encode := func(kv ...string) []byte { return e.Append(nil, fields(kv...)...) }
	for i, want := range []string{
		"000161" + "0162", // new: literal without indexing
		"400161" + "0162", // seen before: with indexing
		"be", "be",
	} {
		if got := encode("a", "b"); !bytes.Equal(got, unhex(want)) {
			t.Errorf("time %d: %x, want %s", i, got, want)
		}
	}
	for i := range 1000 {
		if got := encode("traceparent", fmt.Sprint(i)); got[0] != 0 {
			t.Fatalf("value %d, which never came before, is %x", i, got)
		}
	}
	if got := encode("a", "b"); !bytes.Equal(got, unhex("be")) {
		t.Errorf("values that do not repeat drove out one that does: %x", got)
	}
	if got := encode(":method", "POST", ":status", "200", ":status", "201"); !bytes.Equal(got, unhex("8388"+"0803323031")) {
		t.Errorf("fields of the static table, and one that has its name there, are %x", got)
	}
}

func TestNeverIndexes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		field hpack.Field
		first byte
	}{
		{"sensitive", hpack.Field{Name: "token", Value: "secret", Sensitive: true}, 0x10},
		{"sensitive, of the static table", hpack.Field{Name: ":method", Value: "GET", Sensitive: true}, 0x12},
		{"most of the table", hpack.Field{Name: "big", Value: strings.Repeat("x", 3100)}, 0x00},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, d := hpack.NewEncoder(), hpack.NewDecoder()
			for range 3 {
				block := e.Append(nil, tt.field)
				if block[0] != tt.first {
					t.Errorf("begins with %#x, want %#x", block[0], tt.first)
				}
				got, _, err := d.Decode(nil, block, 1<<20)
				if diff := cmp.Diff([]hpack.Field{tt.field}, got, ignoreHash); err != nil || diff != "" {
					t.Errorf("%v; -want +got\n%s", err, diff)
				}
			}
		})
	}
}

// pair is an encoder and its peer's decoder.
type pair struct {
	*testing.T
	e *hpack.Encoder
	d *hpack.Decoder
}

func newPair(t *testing.T) pair { return pair{t, hpack.NewEncoder(), hpack.NewDecoder()} }

// pass encodes fields as a block, which it returns, and fails unless they are decoded.
func (p pair) pass(want ...hpack.Field) []byte {
	p.Helper()
	block := p.e.Append(nil, want...)
	got, _, err := p.d.Decode(nil, block, math.MaxUint32)
	if diff := cmp.Diff(want, got, ignoreHash); err != nil || diff != "" {
		p.Fatalf("%x: %v; -want +got\n%s", block, err, diff)
	}
	return block
}

// A hash that is another field's costs time at most.
func TestAFieldThatWasChangedIsEncodedAsItIs(t *testing.T) {
	from, to := newPair(t), newPair(t)
	timeout := hpack.Field{Name: "grpc-timeout", Value: "10S"}
	for range 2 {
		from.pass(timeout)
	}
	got, _, err := from.d.Decode(nil, from.pass(timeout), 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		to.pass(got[0])
		changed := got[0]
		changed.Value = fmt.Sprint(i)
		to.pass(changed)
		to.pass(timeout)
	}
}

func TestEvictsTheOldest(t *testing.T) {
	p := newPair(t)
	field := func(i int) hpack.Field { return hpack.Field{Name: "n", Value: fmt.Sprintf("%07d", i)} } // 40 bytes
	const fit = 4096 / 40
	for i := range 3 * fit {
		p.pass(field(i))
		if block := p.pass(field(i)); block[0] != 0x40 {
			t.Fatalf("field %d is %x when it comes again, want it indexed", i, block)
		}
	}
	for i := 2 * fit; i < 3*fit; i++ {
		if block := p.pass(field(i)); block[0] < 0x80 {
			t.Errorf("field %d is %x, want an index: it was among the last %d", i, block, fit)
		}
	}
	for i := range 2 * fit {
		if block := p.pass(field(i)); block[0] != 0 {
			t.Errorf("field %d is %x, want a literal: it was evicted", i, block)
		}
	}
}

// The smallest entries make the table the longest.
func TestTableOfEmptyFields(t *testing.T) {
	p := newPair(t)
	for range 2 {
		p.pass(hpack.Field{})
	}
	for c := range 256 {
		for range 2 {
			p.pass(hpack.Field{Value: string([]byte{byte(c)})})
		}
	}
	for c := 255; c > 255-4096/33; c-- {
		if block := p.pass(hpack.Field{Value: string([]byte{byte(c)})}); block[0] < 0x80 {
			t.Errorf("value %#x is %x, want an index", c, block)
		}
	}
	d := hpack.NewDecoder()
	full := append(bytes.Repeat(unhex("400000"), 200), unhex("ff00")...) // and the entry of index 127
	got, _, err := d.Decode(nil, full, 1<<20)
	if diff := cmp.Diff(make([]hpack.Field, 201), got, ignoreHash); err != nil || diff != "" {
		t.Errorf("%v; -want +got\n%s", err, diff)
	}
	if _, _, err := d.Decode(nil, unhex("ff3f"), 1<<20); !errors.Is(err, hpack.ErrIndex) { // 190
		t.Errorf("the entry behind the last: error %v, want %v", err, hpack.ErrIndex)
	}
}

func TestTellsOfItsTablesSize(t *testing.T) {
	for _, tt := range []struct {
		name  string
		sizes []uint32
		want  string
	}{
		{"the default", []uint32{4096}, "be"},
		{"more than is used", []uint32{1 << 20}, "be"},
		{"less, still enough", []uint32{100}, "3f45" + "be"},
		{"too little for the entry", []uint32{33}, "3f02" + "000161" + "0162"},
		{"none", []uint32{0}, "20" + "000161" + "0162"},
		{"less and less", []uint32{1000, 100}, "3f45" + "be"},
		{"less and the same again", []uint32{33, 4096}, "203fe11f" + "400161" + "0162"},
		{"less and more", []uint32{33, 100}, "203f45" + "400161" + "0162"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, field := newPair(t), hpack.Field{Name: "a", Value: "b"}
			p.pass(field)
			p.pass(field)
			for _, n := range tt.sizes {
				p.e.SetMaxTableSize(n)
			}
			if got := p.pass(field); !bytes.Equal(got, unhex(tt.want)) {
				t.Errorf("%x, want %s", got, tt.want)
			}
			if got := p.pass(field); got[0]&0xe0 == 0x20 {
				t.Errorf("%x, want no more of it", got)
			}
		})
	}
}
