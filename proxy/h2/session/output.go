package session

import "slices"

// What is to be written on a connection is frames in one buffer, Conn.out, and pieces of DATA between them that are
// written from where they stand: in a block of the storage, or for the moment in the buffer that they were read to.

// piece is what is to be written behind the first at bytes of the frames beside it.
type piece struct {
	at    int
	data  []byte
	block *block // that data stands in; nil if it is borrowed from a read buffer
}

// minPiece is how many bytes are worth a place of their own among what is written, and not cheaper to copy.
const minPiece = 8 << 10

// Output is what is to be written, in order: frames, and pieces between them.
type Output struct {
	frames  []byte
	pieces  []piece
	written int // of the frames
	passed  int // pieces that have been written
}

// Empty says that all has been written.
func (f *Output) Empty() bool { return f.written == len(f.frames) && f.passed == len(f.pieces) }

// Chunks appends what is still to be written, in order, but no more chunks than there is room for.
func (f *Output) Chunks(to [][]byte) [][]byte {
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
func (f *Output) Append(to []byte) []byte {
	at := f.written
	for _, p := range f.pieces[f.passed:] {
		to = append(append(to, f.frames[at:p.at]...), p.data...)
		at = p.at
	}
	return append(to, f.frames[at:]...)
}

// Advance notes that the next n bytes have been written.
func (f *Output) Advance(n int) {
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
func (c *Conn) writable() []byte {
	if c.out == nil {
		c.out = c.group.buffers.get()
	}
	return c.out
}

// unwritten is how many bytes of frames and pieces stand to be written.
func (c *Conn) unwritten() int { return len(c.out) + c.pieced }

// mark notes that there are bytes to be written.
func (c *Conn) mark() {
	if !c.marked {
		c.marked = true
		c.handler.OnOutput()
	}
	if len(c.out) > c.group.limits.MaxUnread && !c.overLimit && !c.dead {
		c.overLimit = true
		c.group.unread = append(c.group.unread, c)
	}
	c.charge()
}

// charge brings what the connection holds up to date.
func (c *Conn) charge() {
	holds := cap(c.out) + cap(c.flight.frames) + c.blocks + cap(c.block)
	if c.unparsed != nil {
		holds += cap(c.unparsed.data)
	}
	if c.dead {
		holds = 0
	}
	if more := holds - c.charged; more != 0 {
		c.charged = holds
		c.group.budget.Hold(more)
	}
}

// borrow adds a frame that stands in a read buffer.
func (c *Conn) borrow(frame []byte) {
	if !c.borrows {
		c.borrows = true
		c.group.borrowers = append(c.group.borrowers, c)
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
func (c *Conn) follows(frame []byte) bool {
	last := len(c.pieces) - 1
	if last < 0 {
		return false
	}
	p := &c.pieces[last]
	n := len(p.data)
	return p.at == len(c.out) && p.block == nil && n < cap(p.data) && &p.data[:n+1][n] == &frame[0]
}

// addBlock adds data that stands in a block, which is handed over.
func (c *Conn) addBlock(data []byte, b *block) {
	c.pieced += len(data)
	c.blocks += cap(b.data)
	c.pieces = append(c.pieces, piece{at: len(c.out), data: data, block: b})
}

// CopyBorrowed moves what stands in the read buffer and has not been written to memory of our own. It is called before
// that buffer is used again.
func (g *Group) CopyBorrowed() {
	for _, c := range g.borrowers {
		c.borrows = false
		c.flight.pieces = c.ownPieces(c.flight.pieces, c.flight.passed)
		c.pieces = c.ownPieces(c.pieces, 0)
		c.charge()
	}
	g.borrowers = g.borrowers[:0]
}

// ownPieces copies what is borrowed among the pieces, from the first on, to blocks of the storage. One piece may become many.
func (c *Conn) ownPieces(pieces []piece, first int) []piece {
	for i := first; i < len(pieces); i++ {
		p := pieces[i]
		if p.block != nil {
			continue
		}
		pieces = append(pieces[:i], pieces[i+1:]...)
		for rest := p.data; len(rest) > 0; i++ {
			b := c.group.storage.get(len(rest))
			b.data = append(b.data, rest[:min(len(rest), cap(b.data))]...)
			rest = rest[len(b.data):]
			c.blocks += cap(b.data)
			pieces = slices.Insert(pieces, i, piece{at: p.at, data: b.data, block: b})
		}
		i--
	}
	return pieces
}

// Output returns what is to be written; nil if there is nothing, or if what it returned last is still being written.
// OutputDone says that it has been.
func (c *Conn) Output() *Output {
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

// OutputDone takes back what Output returned. If that could not be written, err is why, and the connection ends.
func (c *Conn) OutputDone(err error) {
	c.writing = false
	c.releaseOutput()
	c.pump()
	c.slot()
	if c.unwritten() > 0 {
		c.mark()
	} else {
		c.charge()
		c.closeIfFinished()
	}
	if err != nil {
		c.discardOutput()
		c.Close(err)
	}
}

// releaseOutput gives back the memory of what has been written.
func (c *Conn) releaseOutput() {
	f := &c.flight
	if f.frames != nil {
		c.group.buffers.put(f.frames)
	}
	c.release(f.pieces)
	*f = Output{pieces: f.pieces[:0]}
}

// discardOutput lets go of what is not to be written any more.
func (c *Conn) discardOutput() {
	c.release(c.pieces)
	c.out, c.pieces, c.pieced, c.requests = nil, c.pieces[:0], 0, 0
}

func (c *Conn) release(pieces []piece) {
	for i := range pieces {
		if b := pieces[i].block; b != nil {
			c.blocks -= cap(b.data)
			c.group.storage.put(b)
		}
	}
	clear(pieces)
}
