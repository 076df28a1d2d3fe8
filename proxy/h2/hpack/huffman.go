package hpack

import "encoding/binary"

// eos is the symbol that only padding is made of (section 5.2).
const eos = 256

// maxCodeLen is the length of the longest code, in bits.
const maxCodeLen = 30

// codeLens is the length of each symbol's code, in bits (appendix B). The code is canonical: among codes of one
// length those of greater symbols are greater, and shorter codes come before longer ones; so lengths say it all.
var codeLens = [eos + 1]uint8{
	13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
	28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
	6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
	5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
	13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
	7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
	15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
	6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
	20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
	24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
	22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
	21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
	26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
	19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
	20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
	26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
	30,
}

// huffman is what is made of codeLens.
var huffman = makeHuffman()

type huffmanTables struct {
	codes   [eos + 1]uint32 // by symbol
	symbols [eos + 1]uint16 // by code
	lengths [maxCodeLen + 1]ofLength
	short   [256]shortCode // by the next eight bits
}

// ofLength is where the codes of one length are.
type ofLength struct {
	below uint32 // codes of this length, and shorter ones, are below it when their highest bit is the highest of 32
	first uint32 // code
	index uint16 // of the first in symbols
}

// A shortCode is a symbol whose code has no more than eight bits. The length of others is 0.
type shortCode struct{ symbol, length uint8 }

func makeHuffman() (t huffmanTables) {
	code, index := uint32(0), uint16(0)
	for length := uint8(1); length <= maxCodeLen; length++ {
		code <<= 1
		t.lengths[length] = ofLength{first: code, index: index}
		for symbol, l := range codeLens {
			if l != length {
				continue
			}
			t.codes[symbol], t.symbols[index] = code, uint16(symbol)
			if length <= 8 {
				for i := range 1 << (8 - length) {
					t.short[code<<(8-length)|uint32(i)] = shortCode{uint8(symbol), length}
				}
			}
			code++
			index++
		}
		// The code after the last is no code of 32 bits; EOS is the last, and never valid.
		t.lengths[length].below = uint32(min(uint64(code)<<(32-length), 1<<32-1))
	}
	return t
}

// huffedLen is how many bytes s has when encoded.
func huffedLen(s string) int {
	bits := 0
	for i := range len(s) {
		bits += int(codeLens[s[i]])
	}
	return (bits + 7) / 8
}

func appendHuffed(dst []byte, s string) []byte {
	var bits uint64 // the low n are still to be written
	n := uint8(0)
	for i := range len(s) {
		c := s[i]
		bits = bits<<codeLens[c] | uint64(huffman.codes[c])
		for n += codeLens[c]; n >= 8; n -= 8 {
			dst = append(dst, byte(bits>>(n-8)))
		}
	}
	if n > 0 {
		dst = append(dst, byte(bits<<(8-n))|0xff>>n)
	}
	return dst
}

// appendUnhuffed appends what src stands for. It is not ok if src has a code that is cut short or is EOS, or
// padding of a whole byte or of other bits than ones.
func appendUnhuffed(dst, src []byte) (_ []byte, ok bool) {
	var bits uint64 // the high n are still to be understood; the others are 0 or what src goes on with
	n := uint8(0)
	for {
		if n < maxCodeLen {
			if len(src) >= 8 {
				bits |= binary.BigEndian.Uint64(src) >> n
				taken := (64 - n) / 8
				src = src[taken:]
				n += 8 * taken
			}
			for n <= 56 && len(src) > 0 {
				bits |= uint64(src[0]) << (56 - n)
				src = src[1:]
				n += 8
			}
		}
		code := huffman.short[bits>>56]
		symbol, length := uint16(code.symbol), code.length
		if length == 0 {
			symbol, length = longCode(uint32(bits >> 32))
		}
		if length > n {
			return dst, n < 8 && bits == ^uint64(0)<<(64-n)
		}
		if symbol == eos {
			return dst, false
		}
		dst = append(dst, byte(symbol))
		bits <<= length
		n -= length
	}
}

// longCode is the symbol whose code, of more than eight bits, the bits begin with.
func longCode(bits uint32) (symbol uint16, length uint8) {
	length = 9
	for length < maxCodeLen && bits >= huffman.lengths[length].below {
		length++
	}
	l := &huffman.lengths[length]
	return huffman.symbols[uint32(l.index)+bits>>(32-length)-l.first], length
}
