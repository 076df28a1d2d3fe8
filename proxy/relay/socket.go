package relay

import (
	"errors"
	"io"
	"net"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"go.uber.org/zap"
)

// socket drives one connection of a core. Reads and writes are single system calls on a socket that does not
// block; Go's poller only says when to try again.
type socket struct {
	shard *shard
	conn  *conn
	nc    net.Conn
	rc    syscall.RawConn

	// Owned by the writer, of which conn.writing allows one:
	tryWrite func(fd uintptr) bool // writes buf once
	buf      []byte
	n        int
	err      error

	unfinished bool // the reader's: not all of what was read has been understood
	greeting   bool // the reader's: the peer has a time to say what it speaks

	// The shard's lock protects:
	closing bool
	closed  bool
	ended   func() // called when the connection has ended and its reader has; may be nil
}

func newSocket(s *shard, nc net.Conn) *socket {
	k := &socket{shard: s, nc: nc, greeting: true}
	nc.SetReadDeadline(time.Now().Add(s.core.cfg.HandshakeTimeout))
	rc, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		panic(err) // TCP and Unix sockets have one
	}
	k.rc = rc
	k.tryWrite = func(fd uintptr) bool {
		k.n, k.err = rawWrite(int(fd), k.buf)
		return true
	}
	return k
}

// close implements transport.
func (k *socket) close(why error) {
	if isViolation(why) || errors.Is(why, errKeepalive) {
		k.shard.log.Warn("a connection is ended because of its peer", zap.Stringer("peer", k.conn.side),
			zap.Stringer("address", k.nc.RemoteAddr()), zap.String("cause", string(causeOf(why))), zap.Error(why))
	}
	k.closing = true
	k.conn.mark() // flush closes
}

// read feeds the core until the connection ends.
func (k *socket) read() {
	s, c := k.shard, k.conn
	err := k.rc.Read(func(fd uintptr) (done bool) {
		for {
			n, err := rawRead(int(fd), c.space())
			if err == syscall.EAGAIN {
				c.rest()
				return false
			}
			if !k.feed(n, err) {
				return true
			}
		}
	})
	s.enter(func(core *core) {
		core.blame = c
		if err == nil {
			err = io.EOF
		}
		c.end(err)
	})
	// Closing with input unread would have TCP take back what was written last, such as why the connection ends.
	_, _ = io.Copy(io.Discard, k.nc) // until the peer or hangUp's deadline ends it
	k.nc.Close()
	if k.ended != nil {
		k.ended()
	}
}

// lingerTimeout is how long a peer may take to end a connection that we have ended.
const lingerTimeout = time.Second

// hangUp ends our side of the connection; the reader sees to the other.
func (k *socket) hangUp() {
	k.nc.SetReadDeadline(time.Now().Add(lingerTimeout))
	if half, ok := k.nc.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}

// batchable is how much may be read at once for what comes of it to be written later, with more.
const batchable = 8 << 10

// feed passes on what was read, and tells whether to read on.
func (k *socket) feed(n int, err error) bool {
	s, c := k.shard, k.conn
	s.mu.Lock()
	defer s.mu.Unlock()
	s.feeds++
	for more := true; more && !c.dead; {
		more = false
		s.do(func() { more = k.step(n, err) })
		if n > batchable {
			s.flush()
		} else {
			s.flushSoon()
		}
		if n = 0; more {
			s.mu.Unlock()
			runtime.Gosched()
			s.mu.Lock()
		}
	}
	return !c.dead
}

func (k *socket) step(n int, err error) (more bool) {
	c := k.conn
	c.core.blame = c
	switch {
	case err != nil:
		c.end(err)
	case n == 0 && !k.unfinished:
		c.end(io.EOF)
	default:
		k.unfinished = c.received(n)
	}
	if k.greeting && c.greeted {
		k.greeting = false
		k.nc.SetReadDeadline(time.Time{})
	}
	return k.unfinished
}

// flush writes what there is. The lock is held when it is called and when it returns, but not meanwhile.
func (k *socket) flush() {
	s, c := k.shard, k.conn
	for {
		b := c.take()
		if b == nil {
			break
		}
		s.mu.Unlock()
		n, err := k.write(b)
		s.mu.Lock()
		if err == nil && n < len(b) {
			if k.closing {
				k.nc.SetWriteDeadline(time.Now().Add(flushTimeout))
			}
			go k.writeRest(b, n) // ends when it is written, or the connection closes
			return
		}
		s.guard(c, func() {
			c.wrote(b)
			if err != nil {
				c.out = nil
				c.end(err)
			}
		})
	}
	switch {
	case !k.closing:
	case c.writing: // by writeRest, which must not wait for ever
		k.nc.SetWriteDeadline(time.Now().Add(flushTimeout))
	case !k.closed:
		k.closed = true
		k.hangUp()
	}
}

func (k *socket) write(b []byte) (int, error) {
	k.buf = b
	if err := k.rc.Write(k.tryWrite); err != nil {
		return 0, err
	}
	k.buf = nil
	if k.err == syscall.EAGAIN {
		return 0, nil
	}
	return k.n, k.err
}

// writeRest writes what the socket's buffer had no room for.
func (k *socket) writeRest(b []byte, n int) {
	_, err := k.nc.Write(b[n:])
	k.shard.enter(func(core *core) {
		core.blame = k.conn
		k.conn.wrote(b)
		if err != nil {
			k.conn.end(err)
		}
		if k.closing {
			k.conn.mark()
		}
	})
}

// rawRead and rawWrite do not tell Go's scheduler, which need not know of a system call that does not block:
// telling it wakes other threads for nothing, which costs more than the call.

func rawRead(fd int, b []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return result(n, errno)
}

func rawWrite(fd int, b []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return result(n, errno)
}

func result(n uintptr, errno syscall.Errno) (int, error) {
	if errno == 0 {
		return int(n), nil
	}
	if errno == syscall.EINTR {
		return 0, syscall.EAGAIN
	}
	return 0, errno
}
