package relay

import "math/bits"

// buffers are those that connections write to, while they have nothing to write. The one that was used last is used
// next, whatever its size.
type buffers struct {
	free  [][]byte
	bytes int
}

// maxBuffers and maxBuffer bound how many bytes are kept, and in pieces of what size.
const (
	maxBuffers = 8 << 20
	maxBuffer  = 512 << 10
)

func (b *buffers) get() []byte {
	last := len(b.free) - 1
	if last < 0 {
		return make([]byte, 0, 1<<10)
	}
	buf := b.free[last]
	b.free[last] = nil
	b.free = b.free[:last]
	b.bytes -= cap(buf)
	return buf
}

func (b *buffers) put(buf []byte) {
	if cap(buf) <= maxBuffer && b.bytes+cap(buf) <= maxBuffers {
		b.free = append(b.free, buf[:0])
		b.bytes += cap(buf)
	}
}

// storage is buffers for what calls hold, while they hold nothing. Their sizes are powers of two, so that no call holds
// much more than it must.
type storage struct {
	free  [storageSizes][][]byte
	bytes int
}

const (
	minStorageBits = 9 // the smallest buffers have 512 bytes
	storageSizes   = 10
	maxStorage     = 1 << (minStorageBits + storageSizes - 1)
)

// grow returns buf with room for n bytes more. A buffer that it replaces must not be used any more.
func (s *storage) grow(buf []byte, n int) []byte {
	if cap(buf)-len(buf) >= n {
		return buf
	}
	grown := append(s.get(len(buf)+n), buf...)
	s.put(buf)
	return grown
}

func (s *storage) get(n int) []byte {
	if n > maxStorage {
		return make([]byte, 0, n)
	}
	i := max(0, bits.Len(uint(n-1))-minStorageBits)
	last := len(s.free[i]) - 1
	if last < 0 {
		return make([]byte, 0, 1<<(i+minStorageBits))
	}
	buf := s.free[i][last]
	s.free[i][last] = nil
	s.free[i] = s.free[i][:last]
	s.bytes -= cap(buf)
	return buf
}

// put takes buf back; nil is none.
func (s *storage) put(buf []byte) {
	if cap(buf) == 0 || cap(buf) > maxStorage || s.bytes+cap(buf) > maxBuffers {
		return
	}
	i := bits.Len(uint(cap(buf))) - 1 - minStorageBits
	s.free[i] = append(s.free[i], buf[:0])
	s.bytes += cap(buf)
}
