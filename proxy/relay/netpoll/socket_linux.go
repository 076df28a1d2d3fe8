package netpoll

import (
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// reading and writing are the events that a socket is watched for: always, and while it has no room for what is
	// to be written. Being told of edges saves the read that finds nothing: what comes after a read that has not
	// filled its buffer is told of anew, but for an end that came with the bytes, which RDHUP tells of.
	reading = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET
	writing = reading | unix.EPOLLOUT
)

// socket drives one connection. The host's lock protects it.
type socket struct {
	poller *Poller
	conn   Conn
	peer   net.Addr
	ended  func() // called when the connection has ended, and the socket has been closed

	fd         int    // -1 when it has been closed
	out        Output // what is not written yet
	queued     bool   // is in poller.ready
	unfinished bool   // not all of what was read has been parsed
	over       bool   // the peer has ended its half, which is not all read

	closing bool          // the connection has ended
	hungUp  bool          // our half has been ended
	gone    bool          // the peer's half has been read to its end
	shutAt  time.Duration // the host's age when the peer must have ended its half
}

// happened takes an event.
func (k *socket) happened(events uint32) {
	const end = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
	if events&end != 0 {
		k.over = true
	}
	if events&(unix.EPOLLOUT|end) != 0 && k.out != nil {
		k.write()
		if k.out == nil && k.fd >= 0 {
			k.interest(reading)
		}
		k.Flush()
	}
	if events&(unix.EPOLLIN|end) != 0 && !k.queued {
		k.queued = true
		k.poller.ready = append(k.poller.ready, k)
	}
}

func (k *socket) interest(events uint32) {
	if err := k.poller.sockets.control(unix.EPOLL_CTL_MOD, k.fd, events); err != nil {
		k.conn.Lost(err)
	}
}

// read reads once, and tells whether there may be more.
func (k *socket) read() (more bool) {
	c := k.conn
	switch {
	case k.fd < 0:
		return false
	case c.Dead():
		return k.discard()
	}
	var n, room int
	var err error
	buf := c.ReadBuf()
	if !k.unfinished {
		room = len(buf)
		n, err = rawRead(k.fd, buf)
	}
	if err == syscall.EAGAIN || err == syscall.EINTR {
		c.ReleaseReadBuf()
		return err == syscall.EINTR
	}
	k.feed(n, err)
	c.ReleaseReadBuf()
	// What came while all of the last read was being parsed has not been looked for, hence n == room.
	return k.fd >= 0 && (k.unfinished || n == room || k.over || c.Dead())
}

func (k *socket) feed(n int, err error) {
	switch {
	case err != nil:
		k.gone = true
		k.conn.Lost(err)
	case n == 0 && !k.unfinished:
		k.gone = true
		k.conn.Lost(io.EOF)
	default:
		k.unfinished = k.conn.Feed(n)
	}
}

// discard reads what comes after the connection's end.
func (k *socket) discard() (more bool) {
	n, err := rawRead(k.fd, k.poller.discarded[:])
	switch {
	case err == syscall.EAGAIN:
		return false
	case n > 0 || err == syscall.EINTR:
		return true
	}
	k.gone = true
	k.Flush()
	return false
}

// Flush implements [Driver].
func (k *socket) Flush() {
	for k.out == nil && k.fd >= 0 {
		if k.out = k.conn.Output(); k.out == nil {
			break
		}
		k.write()
		if k.out != nil && k.fd >= 0 {
			k.interest(writing)
		}
	}
	if k.closing && k.out == nil && k.fd >= 0 {
		k.hangUp()
	}
}

// write writes of the output, until that is all or the socket takes no more.
func (k *socket) write() {
	for {
		chunks := k.out.Chunks(k.poller.chunks[:0])
		n, err := rawWritev(k.fd, chunks)
		if err == syscall.EAGAIN || err == syscall.EINTR {
			return
		}
		k.out.Advance(n)
		if err != nil || k.out.Empty() {
			k.wrote(err)
			return
		}
		if len(chunks) < cap(k.poller.chunks) {
			return
		}
	}
}

func (k *socket) wrote(err error) {
	k.out = nil
	k.conn.OutputDone(err)
}

// Peer implements [Driver].
func (k *socket) Peer() net.Addr { return k.peer }

// Close implements [Driver].
func (k *socket) Close() {
	k.closing = true
	k.poller.linger(k)
}

// hangUp ends our half of the connection, and the socket when the peer has ended its own.
func (k *socket) hangUp() {
	if !k.hungUp {
		k.hungUp = true
		unix.Shutdown(k.fd, unix.SHUT_WR)
	}
	if k.gone {
		k.shut()
	}
}

// shut closes the socket, whatever is left to be written or read.
func (k *socket) shut() {
	if k.fd < 0 {
		return
	}
	delete(k.poller.open, int32(k.fd))
	unix.Close(k.fd)
	k.fd = -1
	if k.out != nil {
		k.wrote(nil)
	}
	ended := k.ended
	k.conn, k.ended = nil, nil // others may refer to the socket for a while
	ended()
}
