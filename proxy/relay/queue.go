package relay

import "math/bits"

// block is a piece of memory for DATA that a call holds.
type block struct {
	data []byte
	next *block
}

// queue is DATA in blocks, in the order in which it came. The first block is written from where it stands once all of
// it may be sent.
type queue struct {
	first, last *block
	sent        int // bytes of the first block
	len         int // bytes that are not sent
	cap         int // of all blocks
}

// head is what has not been sent of the first block.
func (q *queue) head() []byte {
	if q.first == nil {
		return nil
	}
	return q.first.data[q.sent:]
}

// pop takes out the first block, all of which is being sent.
func (q *queue) pop() *block {
	b := q.first
	q.len -= len(b.data) - q.sent
	q.cap -= cap(b.data)
	q.first, q.sent, b.next = b.next, 0, nil
	if q.first == nil {
		q.last = nil
	}
	return b
}

// skip notes that n bytes of the first block are sent, and not all.
func (q *queue) skip(n int) {
	q.sent += n
	q.len -= n
}

// storage is blocks of memory for what calls hold, while they hold nothing. Their sizes are powers of two, so that no
// call holds much more than it must.
type storage struct {
	free  [storageSizes]*block
	bytes int
}

const (
	minBlockBits = 9 // the smallest blocks have 512 bytes
	storageSizes = 6
	// maxBlock is a frame's payload, so that a block can be sent as one.
	maxBlock = 1 << (minBlockBits + storageSizes - 1)
	// maxStorage bounds how many bytes are kept.
	maxStorage = 16 << 20
)

// add appends data to a queue, the blocks of which get larger as it gets longer.
func (s *storage) add(q *queue, data []byte) {
	for len(data) > 0 {
		if q.last == nil || len(q.last.data) == cap(q.last.data) {
			b := s.get(max(q.len, len(data)))
			if q.last == nil {
				q.first = b
			} else {
				q.last.next = b
			}
			q.last = b
			q.cap += cap(b.data)
		}
		b := q.last
		n := min(len(data), cap(b.data)-len(b.data))
		b.data = append(b.data, data[:n]...)
		q.len += n
		data = data[n:]
	}
}

// clear empties a queue.
func (s *storage) clear(q *queue) {
	for q.first != nil {
		s.put(q.pop())
	}
}

// get returns an empty block of n bytes, or the largest there is.
func (s *storage) get(n int) *block {
	i := max(0, bits.Len(uint(min(n, maxBlock)-1))-minBlockBits)
	b := s.free[i]
	if b == nil {
		return &block{data: make([]byte, 0, 1<<(i+minBlockBits))}
	}
	s.free[i], b.next = b.next, nil
	s.bytes -= cap(b.data)
	return b
}

// getAll returns an empty block of n bytes, whatever it takes.
func (s *storage) getAll(n int) *block {
	if n > maxBlock {
		return &block{data: make([]byte, 0, n)}
	}
	return s.get(n)
}

func (s *storage) put(b *block) {
	if cap(b.data) > maxBlock || s.bytes+cap(b.data) > maxStorage {
		return
	}
	i := bits.Len(uint(cap(b.data))) - 1 - minBlockBits
	b.data, b.next = b.data[:0], s.free[i]
	s.free[i] = b
	s.bytes += cap(b.data)
}
