package hpack

// A Decoder decodes the field blocks that one peer sends, in their order.
type Decoder struct {
	table table
}

// NewDecoder returns a decoder whose table is of HTTP/2's default size.
func NewDecoder() *Decoder { return &Decoder{table{max: tableSize}} }

// TooLarge is how often a block may exceed the size that was announced before it is refused: a block that is too
// large for its stream is still to be decoded for the table's sake, but a few bytes can stand for many.
const TooLarge = 4

// Decode appends the fields of a whole block to dst. Size is the sum of their sizes; fields from the first that
// exceeds maxSize are decoded, as they change the table, but not appended. A block of more than four times
// maxSize ends in ErrTooLarge as soon as it is known to be. No error leaves the decoder of further use.
func (d *Decoder) Decode(dst []Field, block []byte, maxSize uint32) (fields []Field, size uint32, err error) {
	if block, err = d.sizeUpdates(block); err != nil {
		return dst, 0, err
	}
	var literal Field
	sum, limit := uint64(0), TooLarge*uint64(maxSize)
	for len(block) > 0 {
		var f *Field
		if b := block[0]; b >= 0x80 { // indexed (section 6.1)
			i := uint64(b & 0x7f)
			if i < 0x7f { // what readInt does, without the call
				block = block[1:]
			} else if i, block, err = readInt(block, 7); err != nil {
				return dst, saturated(sum), err
			}
			if f = d.table.at(i); f == nil {
				return dst, saturated(sum), ErrIndex
			}
		} else {
			if block, err = d.literal(&literal, block); err != nil {
				return dst, saturated(sum), err
			}
			f = &literal
		}
		if sum += f.size(); sum > limit {
			return dst, saturated(sum), ErrTooLarge
		}
		if sum <= uint64(maxSize) {
			dst = append(dst, Field{})
			to := &dst[len(dst)-1] // by parts, as the compiler copies the whole twice, and slowly
			to.Name, to.Value, to.Sensitive, to.hash = f.Name, f.Value, f.Sensitive, f.hash
		}
	}
	return dst, saturated(sum), nil
}

// sizeUpdates does the table size updates (section 6.3) that a block begins with.
func (d *Decoder) sizeUpdates(block []byte) ([]byte, error) {
	for len(block) > 0 && block[0]&0xe0 == 0x20 {
		n, rest, err := readInt(block, 5)
		if err != nil {
			return nil, err
		}
		if n > tableSize {
			return nil, ErrTableSize
		}
		d.table.resize(uint32(n))
		block = rest
	}
	return block, nil
}

// literal reads a field that stands in the block itself (section 6.2).
func (d *Decoder) literal(f *Field, block []byte) (rest []byte, err error) {
	prefix, indexed := uint(4), false
	switch b := block[0]; {
	case b&0xc0 == 0x40:
		prefix, indexed = 6, true
	case b&0xe0 == 0x20:
		return nil, ErrTableSize
	}
	*f = Field{Sensitive: block[0]&0xf0 == 0x10}
	i, block, err := readInt(block, prefix)
	if err != nil {
		return nil, err
	}
	if i == 0 {
		if f.Name, block, err = readString(block, true); err != nil {
			return nil, err
		}
	} else if entry := d.table.at(i); entry != nil {
		f.Name = entry.Name
	} else {
		return nil, ErrIndex
	}
	if f.Value, block, err = readString(block, false); err != nil {
		return nil, err
	}
	if indexed {
		f.hash = hashOf(f.Name, f.Value)
		d.table.add(f)
	}
	return block, nil
}

// readInt reads an integer (section 5.1) that begins in the low bits of the first byte.
func readInt(b []byte, bits uint) (n uint64, rest []byte, err error) {
	if len(b) == 0 {
		return 0, nil, ErrTruncated
	}
	full := uint64(1)<<bits - 1
	n = uint64(b[0]) & full
	if n < full {
		return n, b[1:], nil
	}
	// Nine bytes of seven bits cannot overflow, and more of them are only there to be a nuisance.
	for i, c := range b[1:] {
		if i == 9 {
			break
		}
		n += uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return n, b[i+2:], nil
		}
	}
	if len(b) <= 9 {
		return 0, nil, ErrTruncated
	}
	return 0, nil, ErrInteger
}

// readString reads a string (section 5.2). One that is a well-known name is not allocated.
func readString(b []byte, isName bool) (s string, rest []byte, err error) {
	if len(b) == 0 {
		return "", nil, ErrTruncated
	}
	huffman := b[0] >= 0x80
	n, b, err := readInt(b, 7)
	if err != nil {
		return "", nil, err
	}
	if n > uint64(len(b)) {
		return "", nil, ErrTruncated
	}
	raw, rest := b[:n], b[n:]
	if huffman {
		var space [256]byte // so that what is not longer is allocated once
		var ok bool
		if raw, ok = appendUnhuffed(space[:0], raw); !ok {
			return "", nil, ErrHuffman
		}
	}
	if isName {
		if known, ok := knownNames[string(raw)]; ok {
			return known.name, rest, nil
		}
	}
	return string(raw), rest, nil
}
