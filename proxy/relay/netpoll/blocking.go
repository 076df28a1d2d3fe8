package netpoll

import (
	"io"
	"net"
	"runtime"
	"time"
)

// blocking drives a connection with goroutines that block: one that reads, and one for each write. It is for
// whatever is no plain socket, such as TLS, and for systems that have no poller.
type blocking struct {
	host Host
	nc   net.Conn
	peer net.Addr
	buf  []byte // what write writes

	// The host's lock protects:
	conn    Conn
	writing bool
	closing bool
	hungUp  bool // our half has been closed
}

// Go drives nc, whose peer is at an address. Ended is called when nc has been closed. If the connection cannot be made,
// nc is closed.
func Go(host Host, nc net.Conn, peer net.Addr, start Start, ended func()) error {
	d := &blocking{host: host, nc: nc, peer: peer}
	if !d.start(start) {
		nc.Close()
		return ErrNotStarted
	}
	go d.read(ended) // ends when the connection does
	return nil
}

func (d *blocking) start(start Start) bool {
	d.host.Lock(d.host.Age())
	defer d.host.Unlock()
	if d.conn = start(d); d.conn == nil {
		return false
	}
	d.host.Flush()
	return true
}

// Peer implements [Driver].
func (d *blocking) Peer() net.Addr { return d.peer }

// Close implements [Driver].
func (d *blocking) Close() {
	d.closing = true
	d.nc.SetDeadline(time.Now().Add(lingerTimeout))
}

// Flush implements [Driver].
func (d *blocking) Flush() {
	if d.writing {
		return
	}
	if out := d.conn.Output(); out != nil {
		d.buf = out.Append(d.buf[:0])
		out.Advance(len(d.buf)) // nothing stands elsewhere any more
		d.writing = true
		go d.write() // ends when it is written, or the connection closes
		return
	}
	if d.closing && !d.hungUp {
		d.hungUp = true
		go d.closeHalf() // ends at Close's deadline at the latest
	}
}

func (d *blocking) write() {
	_, err := d.nc.Write(d.buf)
	d.host.Lock(d.host.Age())
	defer d.host.Unlock()
	if cap(d.buf) > maxKept {
		d.buf = nil
	}
	d.writing = false
	d.conn.OutputDone(err)
	d.Flush()
	d.host.Flush()
}

func (d *blocking) closeHalf() {
	if c, ok := d.nc.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
}

const (
	// minRead and maxRead are how much is read at once: more from those who send more.
	minRead = 1 << 10
	maxRead = 32 << 10
	// maxKept is how large a buffer is kept for the next write.
	maxKept = 512 << 10
)

func (d *blocking) read(ended func()) {
	buf := make([]byte, minRead)
	for {
		n, err := d.nc.Read(buf)
		if !d.feed(buf[:n], err) {
			break
		}
		switch {
		case n == len(buf) && n < maxRead:
			buf = make([]byte, 2*len(buf))
		case n < minRead && len(buf) > minRead:
			buf = make([]byte, minRead)
		}
	}
	_, _ = io.Copy(io.Discard, d.nc) // until the peer or Close's deadline ends it
	d.nc.Close()
	ended()
}

// feed passes on what was read, and tells whether to read on.
func (d *blocking) feed(b []byte, err error) bool {
	h, c := d.host, d.conn
	h.Lock(h.Age())
	defer h.Unlock()
	for more := false; (more || len(b) > 0) && !c.Dead(); {
		n, buf := 0, c.ReadBuf()
		if !more {
			n = copy(buf, b)
			b = b[n:]
		}
		more = c.Feed(n)
		h.Flush()
		c.ReleaseReadBuf()
		if more {
			h.Unlock()
			runtime.Gosched()
			h.Lock(h.Age())
		}
	}
	if err != nil {
		c.Lost(err)
		h.Flush()
	}
	return !c.Dead()
}
