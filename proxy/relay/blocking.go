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
	worker *worker
	nc     net.Conn
	buf    []byte // what write writes

	// The worker's lock protects:
	conn    *conn
	closing bool
	hungUp  bool // our half has been closed
}

func attachBlocking(w *worker, nc net.Conn, ended func(), make func(driver) *conn) *conn {
	d := &blocking{worker: w, nc: nc}
	w.run(func(*core) { d.conn = make(d) })
	go d.read(ended) // ends when the connection does
	return d.conn
}

// close implements driver.
func (d *blocking) close(why error) {
	d.worker.logEnd(d.conn, transport.Peer(d.nc), why)
	d.closing = true
	d.nc.SetDeadline(time.Now().Add(lingerTimeout))
	d.conn.mark() // flush closes
}

// flush implements driver.
func (d *blocking) flush() {
	if f := d.conn.output(); f != nil {
		d.buf = f.append(d.buf[:0])
		f.advance(len(d.buf)) // nothing stands elsewhere any more
		go d.write()          // ends when it is written, or the connection closes
		return
	}
	if d.closing && !d.conn.writing && !d.hungUp {
		d.hungUp = true
		go d.closeHalf() // ends at close's deadline at the latest
	}
}

func (d *blocking) write() {
	_, err := d.nc.Write(d.buf)
	d.worker.run(func(core *core) {
		core.current = d.conn
		if cap(d.buf) > maxBuffer {
			d.buf = nil
		}
		d.conn.outputDone()
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
	w, c := d.worker, d.conn
	w.mu.Lock()
	defer w.mu.Unlock()
	w.setNow(w.age())
	for more := false; (more || len(b) > 0) && !c.dead; {
		n, buf := 0, c.readBuf()
		if !more {
			n = copy(buf, b)
			b = b[n:]
		}
		w.step(func() {
			w.core.current = c
			more = c.feed(n)
		})
		w.flush()
		c.releaseReadBuf()
		if more {
			w.mu.Unlock()
			runtime.Gosched()
			w.mu.Lock()
		}
	}
	if err != nil {
		w.step(func() {
			w.core.current = c
			c.end(err)
		})
		w.flush()
	}
	return !c.dead
}
