package hpack_test

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	xhpack "golang.org/x/net/http2/hpack"

	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

// blocksOf cuts data into blocks, each behind a byte that says its length.
func blocksOf(data []byte) (blocks [][]byte) {
	for len(data) > 0 {
		n := min(int(data[0]), len(data)-1)
		blocks, data = append(blocks, data[1:1+n]), data[1+n:]
	}
	return blocks
}

func joined(blocks ...[]byte) (data []byte) {
	for _, b := range blocks {
		data = append(append(data, byte(len(b))), b...)
	}
	return data
}

// xDecode is what x/net's decoder makes of a block.
func xDecode(d *xhpack.Decoder, block []byte) ([]xhpack.HeaderField, error) {
	var fields []xhpack.HeaderField
	d.SetEmitFunc(func(f xhpack.HeaderField) { fields = append(fields, f) })
	if _, err := d.Write(block); err != nil {
		return nil, err
	}
	return fields, d.Close()
}

func toX(fields []hpack.Field) (x []xhpack.HeaderField) {
	for _, f := range fields {
		x = append(x, xhpack.HeaderField{Name: f.Name, Value: f.Value, Sensitive: f.Sensitive})
	}
	return x
}

// Whatever a peer sends, x/net's decoder makes the same of it; but where it takes a table size update depends
// there on what is in the table.
func FuzzDecode(f *testing.F) {
	for _, example := range rfcExamples {
		var blocks [][]byte
		for _, b := range example.blocks {
			blocks = append(blocks, unhex(b.hex))
		}
		f.Add(joined(blocks...))
	}
	for _, c := range malformed {
		f.Add(joined(unhex(c.hex)))
	}
	f.Add(joined(unhex("3fe11f"), unhex("203fe11f82"), unhex("4001610162be"), unhex("20be")))
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := hpack.NewDecoder(), xhpack.NewDecoder(4096, nil)
		for _, block := range blocksOf(data) {
			got, _, err := ours.Decode(nil, block, math.MaxUint32)
			want, wantErr := xDecode(theirs, block)
			if errors.Is(err, hpack.ErrTableSize) || wantErr != nil && strings.Contains(wantErr.Error(), "MUST occur") {
				return
			}
			if (err != nil) != (wantErr != nil) {
				t.Fatalf("block %x: error %v, x/net has %v", block, err, wantErr)
			}
			if err != nil {
				return
			}
			if diff := cmp.Diff(want, toX(got)); diff != "" {
				t.Fatalf("block %x: -x/net +ours\n%s", block, diff)
			}
		}
	})
}

// Whatever is encoded, both decoders read.
func FuzzEncode(f *testing.F) {
	f.Add([]byte{0, 1, 0, 1, 0, 1, 9, 0, 1, 255, 3, 0, 1, 0, 1})
	f.Add([]byte{0x40, 200, 0x40, 200, 0x40, 200, 255, 0, 0x40, 200, 0xfe, 7, 3, 3})
	f.Add(bytes.Repeat([]byte{5, 17, 6, 18, 7, 19, 8, 20, 255, 128, 255, 2, 255, 255}, 20))
	names := []string{
		":path", ":authority", "content-type", "te", "user-agent", "grpc-timeout", "traceparent", "cookie",
		"x-", strings.Repeat("long-name-", 30), "", "\x00\xff",
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		encoder, ours, theirs := hpack.NewEncoder(), hpack.NewDecoder(), xhpack.NewDecoder(4096, nil)
		var block []byte
		var want []xhpack.HeaderField
		flush := func() {
			got, _, err := ours.Decode(nil, block, math.MaxUint32)
			if diff := cmp.Diff(want, toX(got)); err != nil || diff != "" {
				t.Fatalf("block %x: %v; -sent +ours\n%s", block, err, diff)
			}
			read, err := xDecode(theirs, block)
			if diff := cmp.Diff(want, read); err != nil || diff != "" {
				t.Fatalf("block %x: %v; -sent +x/net\n%s", block, err, diff)
			}
			block, want = nil, nil
		}
		for ; len(program) >= 2; program = program[2:] {
			op, arg := program[0], program[1]
			if op >= 0xf0 {
				flush()
				if op == 0xff {
					encoder.SetMaxTableSize(uint32(arg) * 20)
				}
				continue
			}
			field := hpack.Field{Name: names[int(op%16)%len(names)], Value: string([]byte{arg}), Sensitive: op >= 0xe0}
			if op >= 0x40 {
				field.Value = strings.Repeat(string([]byte{arg, 'a', arg / 2}), int(op))
			}
			if block = encoder.Append(block, field); field.Name == "x-" {
				field.Name += field.Value // a new name each time
				block = encoder.Append(block, field)
				want = append(want, xhpack.HeaderField{Name: "x-", Value: field.Value, Sensitive: field.Sensitive})
			}
			want = append(want, xhpack.HeaderField{Name: field.Name, Value: field.Value, Sensitive: field.Sensitive})
		}
		flush()
	})
}
