package hpack_test

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"

	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

// request is the fields that grpc-go begins a call with.
var request = fields(
	":method", "POST", ":scheme", "http", ":path", "/greeter.v1.Greeter/SayHello", ":authority", "hello",
	"content-type", "application/grpc", "user-agent", "grpc-go/1.76.0", "te", "trailers",
)

// xBlocks is n times the fields, as x/net encodes them for one connection.
func xBlocks(fields func(call int) []hpack.Field, n int) (blocks [][]byte) {
	var b bytes.Buffer
	e := xhpack.NewEncoder(&b)
	for i := range n {
		b.Reset()
		for _, f := range toX(fields(i)) {
			if err := e.WriteField(f); err != nil {
				panic(err)
			}
		}
		blocks = append(blocks, bytes.Clone(b.Bytes()))
	}
	return blocks
}

// relay decodes what one peer sends and encodes it for another.
type relay struct {
	decoder *hpack.Decoder
	encoder *hpack.Encoder
	fields  []hpack.Field
	block   []byte
}

func newRelay() *relay { return &relay{decoder: hpack.NewDecoder(), encoder: hpack.NewEncoder()} }

func (r *relay) pass(block []byte) {
	fields, _, err := r.decoder.Decode(r.fields[:0], block, math.MaxUint32)
	if err != nil {
		panic(err)
	}
	r.fields, r.block = fields, r.encoder.Append(r.block[:0], fields...)
}

func steady(int) []hpack.Field { return request }

// traced is request with a trace id and a deadline that are another in every call.
func traced(call int) []hpack.Field {
	return append(request[:len(request):len(request)],
		hpack.Field{Name: "traceparent", Value: fmt.Sprintf("00-%032x-%016x-01", call*7919, call)},
		hpack.Field{Name: "grpc-timeout", Value: fmt.Sprintf("%du", 99_999_999-call)})
}

func BenchmarkRelay(b *testing.B) {
	for _, bm := range []struct {
		name   string
		fields func(int) []hpack.Field
	}{{"steady", steady}, {"traced", traced}} {
		blocks := xBlocks(bm.fields, 2000)
		b.Run(bm.name+"/ours", func(b *testing.B) {
			b.ReportAllocs()
			var r *relay
			for i := 0; b.Loop(); i++ {
				if i %= len(blocks); i == 0 {
					r = newRelay()
				}
				r.pass(blocks[i])
			}
		})
		b.Run(bm.name+"/x-net", func(b *testing.B) {
			b.ReportAllocs()
			var out bytes.Buffer
			var got []xhpack.HeaderField
			var d *xhpack.Decoder
			var e *xhpack.Encoder
			for i := 0; b.Loop(); i++ {
				if i %= len(blocks); i == 0 {
					d = xhpack.NewDecoder(4096, func(f xhpack.HeaderField) { got = append(got, f) })
					e = xhpack.NewEncoder(&out)
				}
				got = got[:0]
				out.Reset()
				if _, err := d.Write(blocks[i]); err != nil {
					b.Fatal(err)
				}
				if err := d.Close(); err != nil {
					b.Fatal(err)
				}
				for _, f := range got {
					if err := e.WriteField(f); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
