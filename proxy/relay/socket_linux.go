package relay

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// reading and writing are the events that a socket is watched for: always, and while it has no room for what is
	// to be written. Being told of edges saves the read that finds nothing: what comes after a read that has not
	// filled its buffer is told of anew, but for an end that came with the bytes, which RDHUP tells of.
	reading = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET
	writing = reading | unix.EPOLLOUT

	// batchable is how much may be read at once for what comes of it to be written later, with more.
	batchable = 8 << 10
)

// socket drives one connection of a core. The worker's lock protects it.
type socket struct {
	poller *poller
	conn   *conn
	peer   net.Addr
	ended  func() // called when the connection has ended, and the socket has been closed

	fd         int     // -1 when it has been closed
	out        *flight // what the core has given out and is not written yet
	queued     bool    // is in poller.ready
	unfinished bool    // not all of what was read has been parsed
	over       bool    // the peer has ended its half, which is not all read

	closing  bool  // the core has ended the connection
	hungUp   bool  // our half has been ended
	gone     bool  // the peer's half has been read to its end
	patience timer // for the peer to end its half
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
		k.flush()
	}
	if events&(unix.EPOLLIN|end) != 0 && !k.queued {
		k.queued = true
		k.poller.ready = append(k.poller.ready, k)
	}
}

func (k *socket) interest(events uint32) {
	if err := k.poller.sockets.control(unix.EPOLL_CTL_MOD, k.fd, events); err != nil {
		k.poller.worker.contain(k.conn, func() { k.conn.end(err) })
	}
}

// read reads once, and tells whether there may be more.
func (k *socket) read() (more bool) {
	c, w := k.conn, k.poller.worker
	switch {
	case k.fd < 0:
		return false
	case c.dead:
		return k.discard()
	}
	var n, room int
	var err error
	buf := c.readBuf()
	if !k.unfinished {
		room = len(buf)
		n, err = rawRead(k.fd, buf)
	}
	if err == syscall.EAGAIN || err == syscall.EINTR {
		c.releaseReadBuf()
		return err == syscall.EINTR
	}
	w.step(func() { k.step(n, err) })
	if n > batchable || len(w.core.borrowers) > 0 {
		w.flush()
	}
	c.releaseReadBuf()
	// What came while all of the last read was being parsed has not been looked for, hence n == room.
	return k.fd >= 0 && (k.unfinished || n == room || k.over || c.dead)
}

func (k *socket) step(n int, err error) {
	c := k.conn
	c.core.current = c
	switch {
	case err != nil:
		k.gone = true
		c.end(err)
	case n == 0 && !k.unfinished:
		k.gone = true
		c.end(io.EOF)
	default:
		k.unfinished = c.feed(n)
	}
}

// discard reads what comes after the connection's end.
func (k *socket) discard() (more bool) {
	n, err := rawRead(k.fd, k.conn.core.readBuffer)
	switch {
	case err == syscall.EAGAIN:
		return false
	case n > 0 || err == syscall.EINTR:
		return true
	}
	k.gone = true
	k.flush()
	return false
}

// flush implements driver.
func (k *socket) flush() {
	for k.out == nil && k.fd >= 0 {
		if k.out = k.conn.output(); k.out == nil {
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

// write writes of what the core has given out, until that is all or the socket takes no more.
func (k *socket) write() {
	for {
		chunks := k.out.chunks(k.poller.chunks[:0])
		n, err := rawWritev(k.fd, chunks)
		if err == syscall.EAGAIN || err == syscall.EINTR {
			return
		}
		k.out.advance(n)
		if err != nil || k.out.empty() {
			k.wrote(err)
			return
		}
		if len(chunks) < cap(k.poller.chunks) {
			return
		}
	}
}

func (k *socket) wrote(err error) {
	c := k.conn
	k.out = nil
	k.poller.worker.contain(c, func() {
		c.outputDone()
		if err != nil {
			c.discardOutput()
			c.end(err)
		}
	})
}

// close implements driver.
func (k *socket) close(why error) {
	k.poller.worker.logEnd(k.conn, k.peer, why)
	k.closing = true
	k.conn.core.set(&k.patience, k.conn.core.now.Add(lingerTimeout))
	k.conn.mark() // flush closes
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
	k.conn.core.timers.remove(&k.patience)
	if k.out != nil {
		k.wrote(nil)
	}
	k.ended()
}
