// Package hpack is HPACK (RFC 7541) for a proxy: field blocks as bytes, and the tables that both ends of a
// connection keep. It is made for fields that are passed on: what the peer sends as an index costs no
// allocation and hashes no string, neither to decode nor to encode for another connection. It does no I/O,
// starts no goroutine and reads no clock; which fields are valid in HTTP/2 is for others to decide.
package hpack

import (
	"errors"
	"hash/maphash"
)

// tableSize is the most that a dynamic table holds, in bytes as section 4.1 counts them: a decoder's because it
// is HTTP/2's default, so that nothing need be announced, and an encoder's because more does not pay.
const tableSize = 4096

// overhead is what a field counts beside its name and value (section 4.1).
const overhead = 32

// A Field is one header field. To change one, make another: it remembers the hash of its name and value.
type Field struct {
	Name, Value string
	Sensitive   bool // to stand in no table, here or further on (section 7.1.3)

	hash uint32 // of name and value, 0 if it is not known; see hashOf
}

// Size is how many bytes the field counts in SETTINGS_MAX_HEADER_LIST_SIZE and in a table. It is math.MaxUint32
// for one that is larger.
func (f Field) Size() uint32 { return saturated(f.size()) }

func (f *Field) size() uint64 { return uint64(len(f.Name)) + uint64(len(f.Value)) + overhead }

func saturated(n uint64) uint32 { return uint32(min(n, 1<<32-1)) }

// What can be wrong with a block. After any of these, a decoder and its peer's encoder no longer agree, so the
// connection has to end: with ENHANCE_YOUR_CALM after ErrTooLarge, else with COMPRESSION_ERROR.
var (
	ErrTooLarge  = errors.New("the block's fields are far larger than announced")
	ErrTruncated = errors.New("the block ends within a field")
	ErrInteger   = errors.New("an integer is too long")
	ErrIndex     = errors.New("an index is of no entry")
	ErrHuffman   = errors.New("a string is no Huffman code")
	ErrTableSize = errors.New("a table size update is too large or not at the block's start")
)

// seed is the process's own, so that no peer can make fields whose hashes collide.
var seed = maphash.MakeSeed()

// hashOf is the hash by which fields are looked up; never 0.
func hashOf(name, value string) uint32 {
	const odd = 0x9e3779b97f4a7c15 // or a name and a value that are equal would cancel out
	return max(1, uint32((maphash.String(seed, name)*odd+maphash.String(seed, value))>>32))
}

// is tells whether both fields, of which one has the hash h, have the same name and value.
func (f *Field) is(other *Field, h uint32) bool {
	return other.hash == h && f.Name == other.Name && f.Value == other.Value
}
