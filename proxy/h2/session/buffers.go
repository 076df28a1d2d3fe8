package session

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
