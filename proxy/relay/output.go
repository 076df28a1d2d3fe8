package relay

import "slices"

// What is to be written on a connection is frames in one buffer, conn.out, and pieces of DATA between them that are
// written from where they stand: in a block of the storage, or for the moment in the buffer that they were read to.

// piece is what is to be written behind the first at bytes of the frames beside it.
type piece struct {
	at    int
	data  []byte
	block *block // that data stands in; nil if it is borrowed from a read buffer
}

// minPiece is how many bytes are worth a place of their own among what is written, and not cheaper to copy.
const minPiece = 8 << 10

// flight is what a driver has taken to write.
type flight struct {
	frames  []byte
	pieces  []piece
	written int // of the frames
	passed  int // pieces that have been written
}

// Empty says that all has been written.
func (f *flight) Empty() bool { return f.written == len(f.frames) && f.passed == len(f.pieces) }

// Chunks appends what is still to be written, in order, but no more chunks than there is room for.
func (f *flight) Chunks(to [][]byte) [][]byte {
	at := f.written
	for _, p := range f.pieces[f.passed:] {
		if at < p.at {
			if len(to) == cap(to) {
				return to
			}
			to = append(to, f.frames[at:p.at])
			at = p.at
		}
		if len(to) == cap(to) {
			return to
		}
		to = append(to, p.data)
	}
	if at < len(f.frames) && len(to) < cap(to) {
		to = append(to, f.frames[at:])
	}
	return to
}

// Append appends all that is still to be written.
func (f *flight) Append(to []byte) []byte {
	at := f.written
	for _, p := range f.pieces[f.passed:] {
		to = append(append(to, f.frames[at:p.at]...), p.data...)
		at = p.at
	}
	return append(to, f.frames[at:]...)
}

// Advance notes that the next n bytes have been written.
func (f *flight) Advance(n int) {
	for f.passed < len(f.pieces) {
		p := &f.pieces[f.passed]
		before := min(n, p.at-f.written)
		f.written += before
		n -= before
		if n < len(p.data) || f.written < p.at {
			p.data = p.data[n:]
			return
		}
		n -= len(p.data)
		f.passed++
	}
	f.written += n
}

// writable is out, to be appended to.
func (c *conn) writable() []byte {
	if c.out == nil {
		c.out = c.core.buffers.get()
	}
	return c.out
}

// unwritten is how many bytes of frames and pieces stand to be written.
func (c *conn) unwritten() int { return len(c.out) + c.pieced }

// mark notes that there are bytes to be written.
func (c *conn) mark() {
	if !c.marked {
		c.marked = true
		c.core.dirty = append(c.core.dirty, c)
	}
	if len(c.out) > c.core.cfg.MaxUnread && !c.overLimit && !c.dead {
		c.overLimit = true
		c.core.overLimit = append(c.core.overLimit, c)
	}
	c.core.chargeConn(c)
}

// borrow adds a frame that stands in a read buffer.
func (c *conn) borrow(frame []byte) {
	if !c.borrows {
		c.borrows = true
		c.core.borrowers = append(c.core.borrowers, c)
	}
	c.pieced += len(frame)
	if c.follows(frame) {
		p := &c.pieces[len(c.pieces)-1]
		p.data = p.data[:len(p.data)+len(frame)]
		return
	}
	c.pieces = append(c.pieces, piece{at: len(c.out), data: frame})
}

// follows says that a frame stands in a read buffer right behind what is written last.
func (c *conn) follows(frame []byte) bool {
	last := len(c.pieces) - 1
	if last < 0 {
		return false
	}
	p := &c.pieces[last]
	n := len(p.data)
	return p.at == len(c.out) && p.block == nil && n < cap(p.data) && &p.data[:n+1][n] == &frame[0]
}

// addBlock adds data that stands in a block, which is handed over.
func (c *conn) addBlock(data []byte, b *block) {
	c.pieced += len(data)
	c.blocks += cap(b.data)
	c.pieces = append(c.pieces, piece{at: len(c.out), data: data, block: b})
}

// copyBorrowed moves what has been borrowed and not been written to memory of our own. It is called before read
// buffers are used again.
func (c *core) copyBorrowed() {
	for _, cn := range c.borrowers {
		cn.borrows = false
		cn.flight.pieces = cn.ownPieces(cn.flight.pieces, cn.flight.passed)
		cn.pieces = cn.ownPieces(cn.pieces, 0)
		c.chargeConn(cn)
	}
	c.borrowers = c.borrowers[:0]
}

// ownPieces copies what is borrowed among the pieces, from the first on, to blocks of the storage. One piece may become many.
func (c *conn) ownPieces(pieces []piece, first int) []piece {
	for i := first; i < len(pieces); i++ {
		p := pieces[i]
		if p.block != nil {
			continue
		}
		pieces = append(pieces[:i], pieces[i+1:]...)
		for rest := p.data; len(rest) > 0; i++ {
			b := c.core.storage.get(len(rest))
			b.data = append(b.data, rest[:min(len(rest), cap(b.data))]...)
			rest = rest[len(b.data):]
			c.blocks += cap(b.data)
			pieces = slices.Insert(pieces, i, piece{at: p.at, data: b.data, block: b})
		}
		i--
	}
	return pieces
}

// output returns what is to be written; nil if there is nothing, or if what it returned last is still being written.
// OutputDone says that it has been.
func (c *conn) output() *flight {
	c.marked = false
	if c.writing || c.unwritten() == 0 {
		return nil
	}
	c.addAcks()
	f := &c.flight
	f.frames, f.pieces, c.pieces = c.out, c.pieces, f.pieces
	c.takenID = c.nextID
	c.out, c.pieced, c.requests = nil, 0, 0
	c.writing = true
	return f
}

// outputDone takes back what output returned. What came up meanwhile is marked.
func (c *conn) outputDone() {
	c.writing = false
	c.releaseOutput()
	c.pump()
	if c.pool != nil {
		c.pool.admit(c.core)
	}
	if c.unwritten() > 0 {
		c.mark()
		return
	}
	c.core.chargeConn(c)
	c.closeIfFinished()
}

// releaseOutput gives back the memory of what has been written.
func (c *conn) releaseOutput() {
	f := &c.flight
	if f.frames != nil {
		c.core.buffers.put(f.frames)
	}
	c.release(f.pieces)
	*f = flight{pieces: f.pieces[:0]}
}

// discardOutput lets go of what is not to be written any more.
func (c *conn) discardOutput() {
	c.release(c.pieces)
	c.out, c.pieces, c.pieced, c.requests = nil, c.pieces[:0], 0, 0
}

func (c *conn) release(pieces []piece) {
	for i := range pieces {
		if b := pieces[i].block; b != nil {
			c.blocks -= cap(b.data)
			c.core.storage.put(b)
		}
	}
	clear(pieces)
}
