package hpack

// tableEntries is how many entries a dynamic table can hold, as none is smaller than the overhead.
const tableEntries = tableSize / overhead

// A table is a dynamic table (section 2.3.2). Entries are numbered as they are added and stay where their number
// puts them, so that neither adding nor evicting moves others.
type table struct {
	ring  []Field // entry n stands at n modulo its length, a power of two of at most tableEntries
	added uint32  // number of the next entry; may wrap
	n     uint32  // entries
	size  uint32  // of them all, in bytes
	max   uint32  // bytes
	index *index  // nil where nothing is looked up: in a decoder
}

func (t *table) entry(number uint32) *Field { return &t.ring[number&uint32(len(t.ring)-1)] }

// at is the entry of index i of both tables, as section 2.3.3 counts; nil if there is none.
func (t *table) at(i uint64) *Field {
	if i-1 < staticLen {
		return &staticTable[i]
	}
	if i -= 1 + staticLen; i < uint64(t.n) {
		return t.entry(t.added - 1 - uint32(i))
	}
	return nil
}

// add adds f, whose hash is known. One that is larger than the table empties it (section 4.4).
func (t *table) add(f *Field) {
	need := f.size()
	if need > uint64(t.max) {
		t.shrink(0)
		return
	}
	t.shrink(t.max - uint32(need))
	if int(t.n) == len(t.ring) {
		t.grow()
	}
	*t.entry(t.added) = Field{Name: f.Name, Value: f.Value, hash: f.hash}
	if t.index != nil {
		t.index.add(t.added, f.hash)
	}
	t.added++
	t.n++
	t.size += uint32(need)
}

// resize sets how many bytes the table may hold.
func (t *table) resize(n uint32) {
	t.max = n
	t.shrink(n)
}

// shrink evicts the oldest entries until the others are no larger than n bytes.
func (t *table) shrink(n uint32) {
	for t.size > n {
		number := t.added - t.n
		f := t.entry(number)
		if t.index != nil {
			t.index.removeOldest(number, f.hash)
		}
		t.size -= f.Size()
		t.n--
		*f = Field{}
	}
}

func (t *table) grow() {
	old := *t
	t.ring = make([]Field, max(8, 2*len(t.ring)))
	for number := t.added - t.n; number != t.added; number++ {
		*t.entry(number) = *old.entry(number)
	}
}
