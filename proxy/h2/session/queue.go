package session

import "math/bits"

// block is a piece of memory for DATA that a call holds.
type block struct {
	data []byte
	next *block
}

// Queue is DATA in blocks, in the order in which it came. The first block is written from where it stands once all of
// it may be sent.
type Queue struct {
	first, last *block
	sent        int // bytes of the first block
	len         int // bytes that are not sent
	cap         int // of all blocks
}

// head is what has not been sent of the first block.
func (q *Queue) head() []byte {
	if q.first == nil {
		return nil
	}
	return q.first.data[q.sent:]
}

// pop takes out the first block, all of which is being sent.
func (q *Queue) pop() *block {
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
func (q *Queue) skip(n int) {
	q.sent += n
	q.len -= n
}

// Storage is blocks of memory for what calls hold, while they hold nothing. Their sizes are powers of two, so that no
// call holds much more than it must.
type Storage struct {
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

// Add appends data to a queue, the blocks of which get larger as it gets longer.
func (s *Storage) Add(q *Queue, data []byte) {
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

// Clear empties a queue.
func (s *Storage) Clear(q *Queue) {
	for q.first != nil {
		s.put(q.pop())
	}
}

// get returns an empty block of n bytes, or the largest there is.
func (s *Storage) get(n int) *block {
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
func (s *Storage) getAll(n int) *block {
	if n > maxBlock {
		return &block{data: make([]byte, 0, n)}
	}
	return s.get(n)
}

func (s *Storage) put(b *block) {
	if cap(b.data) > maxBlock || s.bytes+cap(b.data) > maxStorage {
		return
	}
	i := bits.Len(uint(cap(b.data))) - 1 - minBlockBits
	b.data, b.next = b.data[:0], s.free[i]
	s.free[i] = b
	s.bytes += cap(b.data)
}

// Len is how many bytes are not sent, Cap how many the blocks take.
func (q *Queue) Len() int { return q.len }
func (q *Queue) Cap() int { return q.cap }

// AddTo appends what is in q to the queue of a stream.
func (q *Queue) AddTo(s *Stream) {
	for b := q.first; b != nil; b = b.next {
		s.group.storage.Add(&s.queue, b.data)
	}
}
