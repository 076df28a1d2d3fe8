package hpack

import (
	"math/rand/v2"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"
)

// Our code, made of its lengths alone, is x/net's, both ways and whatever stands beside a symbol.
func TestHuffmanIsThatOfXNet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var samples []string
	for c := range 256 {
		samples = append(samples, string([]byte{byte(c)}), string([]byte{'e', byte(c), byte(c), 'X'}))
	}
	for n := range 100 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.IntN(256))
		}
		samples = append(samples, string(b))
	}
	for _, s := range samples {
		want := xhpack.AppendHuffmanString(nil, s)
		got := appendHuffed(nil, s)
		if string(got) != string(want) || huffedLen(s) != len(want) {
			t.Fatalf("%q is %x of length %d, want %x", s, got, huffedLen(s), want)
		}
		if back, ok := appendUnhuffed(nil, got); !ok || string(back) != s {
			t.Fatalf("%x is %q, %v; want %q", got, back, ok, s)
		}
	}
}

// Ends of codes at every bit: what is cut off, padded or changed is taken as x/net takes it.
func TestHuffmanIsAsStrictAsXNet(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for range 200_000 {
		b := make([]byte, random.IntN(20))
		for i := range b {
			if b[i] = byte(random.Uint32()); i >= len(b)-4 && random.IntN(2) == 0 {
				b[i] = 0xff
			}
		}
		want, err := xhpack.HuffmanDecodeToString(b)
		got, ok := appendUnhuffed(nil, b)
		if ok != (err == nil) || ok && string(got) != want {
			t.Fatalf("%x is %q, %v; x/net has %q, %v", b, got, ok, want, err)
		}
		if !ok {
			refused++
		}
	}
	if refused == 0 || refused == 200_000 {
		t.Errorf("%d of the codes were refused", refused)
	}
}

func TestSizeDoesNotOverflow(t *testing.T) {
	if got := (Field{Name: "ab", Value: "c"}).Size(); got != 35 {
		t.Errorf("size %d, want 35", got)
	}
	if got := saturated(1 << 32); got != 1<<32-1 {
		t.Errorf("saturated to %d", got)
	}
}

// A hash finds every entry of the static table, and nothing that is only like one.
func TestStaticTableIsFound(t *testing.T) {
	for i := 1; i <= staticLen; i++ {
		f := staticTable[i]
		if got := staticMatch(&f, f.hash); got != uint64(i) {
			t.Errorf("%s: %s is found at %d, want %d", f.Name, f.Value, got, i)
		}
		f.Value += "?"
		if got := staticMatch(&f, f.hash); got != 0 {
			t.Errorf("%s: %s is found at %d", f.Name, f.Value, got)
		}
	}
}
