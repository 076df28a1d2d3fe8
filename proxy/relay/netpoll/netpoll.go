// Package netpoll moves bytes between sockets and what it drives, and knows nothing of what they mean.
//
// On Linux a [Poller] drives plain sockets from one goroutine. Whatever is no plain socket, such as TLS, and everything
// on other systems, is driven by goroutines that block; see [Go]. What to do with bytes, and when a connection ends, is
// decided by those who implement [Conn] and [Host].
package netpoll

import (
	"errors"
	"net"
	"time"
)

// Host is whom connections belong to. What it protects by its lock is all that happens to them, so that each stretch of
// work has one shape: Lock, calls of Conn's methods, Flush, Unlock.
type Host interface {
	// Age is how long the host has been there: the time, for what Lock takes.
	Age() time.Duration
	// Lock begins a stretch of work at a time.
	Lock(age time.Duration)
	// Flush calls the Flush of all drivers whose connections have something to write.
	Flush()
	Unlock()

	// Pending says whether Flush has something to do, Busy whether calls run.
	Pending() bool
	Busy() bool
	// Expire is called when the alarm has gone off, or before. See [Poller.SetAlarm].
	Expire()
	// Worked counts the time of a stretch of work that a poller has done.
	Worked(time.Duration)
}

// Conn is a connection above its driver. Its methods are called with the host's lock held, and do not panic.
type Conn interface {
	// ReadBuf is where to read to, until Feed or ReleaseReadBuf. It is shared with other connections.
	ReadBuf() []byte
	// Feed parses n bytes that have been read. True: call it again with 0 when others have had their turn.
	Feed(n int) (more bool)
	// ReleaseReadBuf follows each ReadBuf, before others read.
	ReleaseReadBuf()
	// Output is what is to be written; nil if there is nothing, or if the last is not done.
	Output() Output
	// OutputDone gives back the last output, of which all has been written, or nothing more can be.
	OutputDone(error)
	// Lost tells that nothing more can be read; io.EOF if the peer has ended its half.
	Lost(error)
	// Dead says whether the connection has ended, by Lost or of itself.
	Dead() bool
}

// Output is bytes that stand in several places.
type Output interface {
	// Chunks appends what is still to be written, in order, but no more chunks than there is room for.
	Chunks(to [][]byte) [][]byte
	// Append appends all that is still to be written.
	Append(to []byte) []byte
	// Advance notes that the next n bytes have been written.
	Advance(n int)
	Empty() bool
}

// Driver does the I/O of a connection. Its methods return at once, and are called with the host's lock held.
type Driver interface {
	// Flush writes the connection's output.
	Flush()
	// Close ends the socket after as much of the output as possible, as soon as Flush is called. Conn is dead by then.
	Close()
	// Peer is the address at the other end.
	Peer() net.Addr
}

// Start makes the connection above a driver; nil if that fails. It is called with the host's lock held.
type Start = func(Driver) Conn

var (
	// ErrNoSocket is why a poller does not drive a connection: it is no plain socket.
	ErrNoSocket = errors.New("not a plain socket")
	// ErrNotStarted is why nothing drives a connection that could not be made.
	ErrNotStarted = errors.New("the connection could not be set up")

	errClosed = errors.New("the poller has been closed")
)

// lingerTimeout is how long a peer may take to read the last of what it is sent, and to close a connection that we
// have ended. Closing before that, with input unread, would have TCP take back what was written last, such as why
// the connection ends.
const lingerTimeout = time.Second
