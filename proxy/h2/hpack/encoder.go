package hpack

// An Encoder encodes the field blocks that one peer gets, in their order.
type Encoder struct {
	table table
	told  uint32 // the table's size as the peer has it from us
	least uint32 // the least that the table's size was since then
}

// NewEncoder returns an encoder whose table is of HTTP/2's default size.
func NewEncoder() *Encoder {
	return &Encoder{table: table{max: tableSize}, told: tableSize, least: tableSize}
}

// SetMaxTableSize takes the peer's SETTINGS_HEADER_TABLE_SIZE, in bytes. It is to be called between blocks.
func (e *Encoder) SetMaxTableSize(n uint32) {
	n = min(n, tableSize)
	e.least = min(e.least, n)
	e.table.resize(n)
}

// Append appends the fields to dst as HPACK has them. They may be a block or a part of one.
func (e *Encoder) Append(dst []byte, fields ...Field) []byte {
	for i := range fields {
		dst = e.append(dst, &fields[i])
	}
	return dst
}

func (e *Encoder) append(dst []byte, f *Field) []byte {
	if e.least != e.told || e.table.max != e.told {
		dst = e.appendSizeUpdates(dst)
	}
	if f.Sensitive {
		return appendLiteral(dst, 0x10, 4, f)
	}
	h := f.hash
	if h == 0 {
		h = hashOf(f.Name, f.Value)
	}
	i := staticMatch(f, h)
	if i == 0 {
		i = e.match(f, h)
	}
	if i != 0 {
		return appendInt(dst, 0x80, 7, i)
	}
	// A field that takes most of the table would drive out what is of more use.
	if f.size() > uint64(e.table.max)/4*3 || !e.table.index.seenBefore(h) {
		return appendLiteral(dst, 0, 4, f)
	}
	dst = appendLiteral(dst, 0x40, 6, f)
	e.table.add(&Field{Name: f.Name, Value: f.Value, hash: h})
	return dst
}

// match is the index of the entry of the dynamic table that is f, whose hash is h, or 0.
func (e *Encoder) match(f *Field, h uint32) uint64 {
	t := &e.table
	if t.index == nil {
		t.index = new(index)
	}
	for next := t.index.heads[bucket(h)]; next != 0; next = t.index.older[next-1] {
		number := uint32(next - 1)
		if f.is(t.entry(number), h) {
			return 1 + staticLen + uint64((t.added-1-number)%tableEntries)
		}
	}
	return 0
}

// appendSizeUpdates tells the peer that its table changes (section 4.2).
func (e *Encoder) appendSizeUpdates(dst []byte) []byte {
	if e.least < e.table.max && e.least < e.told {
		// The size went down and up again. The peer is to hear of the least; it hears of none at all, because some
		// decoders take a second update only while their table is empty.
		size := e.table.max
		e.table.resize(0)
		e.table.resize(size)
		dst = appendInt(dst, 0x20, 5, 0)
	}
	e.told, e.least = e.table.max, e.table.max
	return appendInt(dst, 0x20, 5, uint64(e.told))
}

// appendLiteral appends f as a literal (section 6.2) of the kind that the first byte's high bits say.
func appendLiteral(dst []byte, kind byte, bits uint, f *Field) []byte {
	name := knownNames[f.Name].index
	dst = appendInt(dst, kind, bits, name)
	if name == 0 {
		dst = appendString(dst, f.Name)
	}
	return appendString(dst, f.Value)
}

// appendInt appends an integer (section 5.1) that begins in the low bits of a byte whose high bits are given.
func appendInt(dst []byte, high byte, bits uint, n uint64) []byte {
	full := uint64(1)<<bits - 1
	if n < full {
		return append(dst, high|byte(n))
	}
	dst = append(dst, high|byte(full))
	for n -= full; n >= 0x80; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

// huffmanFrom is the length, in bytes, from which a string is worth the peer's and our time to squeeze. What
// comes often is in the table anyway.
const huffmanFrom = 64

// appendString appends a string (section 5.2).
func appendString(dst []byte, s string) []byte {
	if len(s) >= huffmanFrom {
		if n := huffedLen(s); n < len(s) {
			return appendHuffed(appendInt(dst, 0x80, 7, uint64(n)), s)
		}
	}
	return append(appendInt(dst, 0, 7, uint64(len(s))), s...)
}
