package hpack

// An index finds entries of an encoder's table by their hash, and knows which fields deserve to be in it. It
// names an entry by its number modulo tableEntries, plus 1, so that 0 is none.
type index struct {
	heads [tableEntries]uint8 // by bucket: the newest entry of a chain
	older [tableEntries]uint8 // by entry: the next of its chain
	seen  [16][4]uint32       // hashes of fields that were not in the table, newest first
}

// bucket is the chain that a hash belongs to. The static table is looked up by other bits of it.
func bucket(h uint32) uint32 { return h >> 25 }

func (x *index) add(number, h uint32) {
	i := number % tableEntries
	x.older[i] = x.heads[bucket(h)]
	x.heads[bucket(h)] = uint8(i + 1)
}

// removeOldest removes the oldest entry of the table, which thereby is the last of its chain.
func (x *index) removeOldest(number, h uint32) {
	name := uint8(number%tableEntries + 1)
	at := &x.heads[bucket(h)]
	for *at != name {
		at = &x.older[*at-1]
	}
	*at = 0
}

// seenBefore tells whether a field of this hash came not long ago, and notes that it has come. Values that are
// another in every call, such as deadlines and trace ids, so never drive out of the table what is repeated.
func (x *index) seenBefore(h uint32) bool {
	set := &x.seen[h%uint32(len(x.seen))]
	for _, s := range set {
		if s == h {
			return true
		}
	}
	copy(set[1:], set[:])
	set[0] = h
	return false
}
