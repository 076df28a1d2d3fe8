package relay

import (
	"io"
	"net"
	"runtime"
	"time"

	"github.com/lbproxy/lbproxy/proxy/transport"
)

// blocking drives a connection with goroutines that block: one that reads, and one for each write. It is for
// whatever is no plain socket, such as TLS, and for systems that have no poller.
type blocking struct {
	shard *shard
	nc    net.Conn
	buf   []byte // what write writes

	// The shard's lock protects:
	conn    *conn
	closing bool
	half    bool // our half has been closed
}

func attachBlocking(s *shard, nc net.Conn, ended func(), make func(driver) *conn) *conn {
	d := &blocking{shard: s, nc: nc}
	s.enter(func(*core) { d.conn = make(d) })
	go d.read(ended) // ends when the connection does
	return d.conn
}

// close implements driver.
func (d *blocking) close(why error) {
	d.shard.logEnd(d.conn, transport.Peer(d.nc), why)
	d.closing = true
	d.nc.SetDeadline(time.Now().Add(lingerTimeout))
	d.conn.mark() // flush closes
}

// flush implements driver.
func (d *blocking) flush() {
	if f := d.conn.take(); f != nil {
		d.buf = f.append(d.buf[:0])
		f.advance(len(d.buf)) // nothing stands elsewhere any more
		go d.write()          // ends when it is written, or the connection closes
		return
	}
	if d.closing && !d.conn.writing && !d.half {
		d.half = true
		go d.closeHalf() // ends at close's deadline at the latest
	}
}

func (d *blocking) write() {
	_, err := d.nc.Write(d.buf)
	d.shard.enter(func(core *core) {
		core.blame = d.conn
		if cap(d.buf) > maxBuffer {
			d.buf = nil
		}
		d.conn.wrote()
		if err != nil {
			d.conn.discardOutput()
			d.conn.end(err)
		}
		d.conn.mark()
	})
}

func (d *blocking) closeHalf() {
	if c, ok := d.nc.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
}

// minRead and maxRead are how much is read at once: more from those who send more.
const (
	minRead = 1 << 10
	maxRead = 32 << 10
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
	_, _ = io.Copy(io.Discard, d.nc) // until the peer or close's deadline ends it
	d.nc.Close()
	ended()
}

// feed passes on what was read, and tells whether to read on.
func (d *blocking) feed(b []byte, err error) bool {
	s, c := d.shard, d.conn
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setNow(s.age())
	for more := false; (more || len(b) > 0) && !c.dead; {
		n, buf := 0, c.space()
		if !more {
			n = copy(buf, b)
			b = b[n:]
		}
		s.do(func() {
			s.core.blame = c
			more = c.received(n)
		})
		s.flush()
		c.rest()
		if more {
			s.mu.Unlock()
			runtime.Gosched()
			s.mu.Lock()
		}
	}
	if err != nil {
		s.do(func() {
			s.core.blame = c
			c.end(err)
		})
		s.flush()
	}
	return !c.dead
}
