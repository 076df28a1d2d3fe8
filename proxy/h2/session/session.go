// Package session is one HTTP/2 connection, either end of it, as code without I/O: bytes and time go in, bytes and
// events come out.
//
// It decides what RFC 9113 leaves to an endpoint: SETTINGS, the tables of field compression, windows and how they
// follow the round trip, the states of streams, what a peer may do too much of, GOAWAY, PING and keepalive, and in which
// order streams get to send. It reads no clock, holds no lock and starts no goroutine. What streams are for, which
// connection a stream is opened on, how much memory there is, and when to write are left to its owner.
//
// Commands are methods of [Conn] and [Stream], events those of [Handler] and [StreamHandler]. A handler may call
// commands, of other connections as well. It may not open streams on the connection whose frame is being handled: that
// there is room for one is told after the frame, by [Handler.OnSlot].
package session

import (
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

// Handler receives the events of a connection. Its methods are called while a command or Feed runs.
type Handler interface {
	// Recognize identifies the protocol of a peer that has not begun as HTTP/2 does, and returns what to answer it. It
	// returns no error as long as it cannot tell. For a server it is called until the server's SETTINGS have come.
	Recognize(said []byte) (answer []byte, err error)
	// OnRequest returns a stream for a request that has come. The stream's OnHeaders is called next.
	OnRequest() *Stream
	// OnRejected is called for a request that is refused.
	OnRejected(Rejection)
	// OnGreeted is called when the peer's first SETTINGS have come.
	OnGreeted()
	// OnSlot is called when there may be room for one more stream. It is called by [Group.Settle] alone.
	OnSlot()
	// OnUnread is called when more than Limits allow waits for a peer that does not read. The handler is to Fail the
	// connection. It is called by [Group.Settle] alone.
	OnUnread(error)
	// OnGoAway is called when a server wants no more streams, before those end that it has not processed.
	OnGoAway(*GoAwayError)
	// OnOutput is called when there is output, once until Output is called.
	OnOutput()
	// OnTimer asks for a call of Expire after d, or before.
	OnTimer(d time.Duration)
	// OnFrame is called after each frame. It must call [Group.Settle].
	OnFrame()
	// OnClosed is called when the connection has ended, and returns the error that its streams get.
	OnClosed(error) error
}

// StreamHandler receives the events of a stream. Fields and frames are valid until its methods return. A stream
// has left its connection when OnReset, OnBroken or OnLost is called.
type StreamHandler interface {
	// OnHeaders is called with the fields that begin a request or a response. The handler may change them.
	OnHeaders(fields []hpack.Field, size uint32, end bool)
	OnInformational(fields []hpack.Field)
	OnTrailers(fields []hpack.Field)
	// OnData is called with DATA, which stands in frame behind room for a frame's header. The handler is to Credit it.
	OnData(frame []byte, end bool)
	// OnSent is called when n bytes have been sent that were queued, OnEnd when END_STREAM has been that was.
	OnSent(n int)
	OnEnd()
	// OnTooLong is called with queued trailers that are longer than the peer takes.
	OnTooLong(trailers []hpack.Field)
	// OnReset is called when the peer has reset the stream, or has gone away without processing it.
	OnReset(Reset)
	// OnBroken is called when the peer has broken the protocol on the stream.
	OnBroken(error)
	// OnLost is called when the connection has ended. Written says that the peer may know of the stream.
	OnLost(err error, written bool)
}

// Budget is what the owner of sessions lets them hold, all together.
type Budget interface {
	// Hold notes that sessions hold n bytes more, or less.
	Hold(n int)
	// Room is by how many bytes windows may grow now; Grow notes that they have.
	Room() int
	Grow(n int)
	// Remember makes room for n bytes of what is remembered of closed streams, if it may; less than 0 always.
	Remember(n int) bool
}

// Limits bound what a peer can make a session hold and do.
type Limits struct {
	// MaxStreams is how many streams a client may have at a time on a connection.
	MaxStreams uint32
	// MaxHeaderList is the longest field block that is taken, as SETTINGS_MAX_HEADER_LIST_SIZE counts.
	MaxHeaderList uint32
	// MaxGlitches is how many useless frames (PING, empty DATA, ...) a peer may send in a row within ten seconds, and how
	// many streams it may reset in that time.
	MaxGlitches int
	// MaxUnread is how many bytes may wait to be written to a peer that does not read.
	MaxUnread int
}

// maxBlock is the longest field block that is decoded, though what exceeds MaxHeaderList costs its stream: otherwise it
// would cost the connection.
func (l *Limits) maxBlock() int { return hpack.TooLarge * int(l.MaxHeaderList) }

// maxFragments is in how many CONTINUATION frames a field block may come: even the longest, in frames of half the size
// that all peers may use.
func (l *Limits) maxFragments() int { return max(128, l.maxBlock()/(maxFrameSize/2)) }

// Group is what sessions share that are driven together, one at a time.
type Group struct {
	limits *Limits
	budget Budget
	now    int64 // in Unix nanoseconds

	readBuffer []byte  // that connections are read to, one at a time
	buffers    buffers // for what connections write
	storage    Storage
	borrowers  []*Conn // whose output stands in the read buffer, some of it

	roomy  []*Conn // may have room for one more stream, which has not been told
	unread []*Conn // whose peers do not read, and which are to end between frames

	fields  []hpack.Field // of the field block decoded last, which stand here until the next
	encoded []byte        // the field block encoded last
}

// NewGroup returns a group without sessions. Limits may change later.
func NewGroup(limits *Limits, budget Budget) *Group {
	return &Group{limits: limits, budget: budget, readBuffer: make([]byte, readBuffer)}
}

// SetNow sets the time.
func (g *Group) SetNow(now time.Time) { g.now = now.UnixNano() }

// Storage is where the group's streams keep DATA.
func (g *Group) Storage() *Storage { return &g.storage }

// Borrowing says whether output stands in the read buffer.
func (g *Group) Borrowing() bool { return len(g.borrowers) > 0 }

// Settle tells what must not be told while a frame is being handled: that peers do not read, and where there may be
// room for streams.
func (g *Group) Settle() {
	for len(g.unread) > 0 {
		last := len(g.unread) - 1
		c := g.unread[last]
		g.unread = g.unread[:last]
		c.handler.OnUnread(ErrUnread)
	}
	for len(g.roomy) > 0 {
		last := len(g.roomy) - 1
		c := g.roomy[last]
		g.roomy = g.roomy[:last]
		if c.roomy = false; !c.dead {
			c.handler.OnSlot()
		}
	}
}
