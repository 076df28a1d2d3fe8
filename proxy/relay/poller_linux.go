package relay

import (
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lbproxy/lbproxy/proxy/transport"
)

// poller drives the plain sockets of a worker from one goroutine: it waits until some can be read, reads all of them,
// and writes what comes of it, so that what goes to one peer goes in one piece.
//
// It has an epoll instance of its own. Go's poller would do, but costs the sleep and the waking of a goroutine for
// every socket, and a read that finds nothing. Between events that follow each other closely it waits in the kernel
// without telling Go's scheduler, whose housekeeping for a goroutine that sleeps and wakes that often would cost
// more than the calls do. It does so for holdTime at most, and where the last waits have been shorter; otherwise it
// waits as other goroutines do. Where GOMAXPROCS is no more than there are workers, they would keep all other
// goroutines waiting, so that it never does.
type poller struct {
	worker     *worker
	sockets    epoll // and the alarm
	alarm      timerfd
	goPollWait *goPollWait   // at which Go's poller waits for sockets
	hold       time.Duration // holdTime or 0
	ended      chan struct{}

	// Owned by run:
	events  [128]unix.EpollEvent
	chunks  [maxChunks][]byte // scratch of socket.write
	ready   []*socket         // may have more to be read
	spare   []*socket         // ready, when it was read last
	yielded time.Duration     // the worker's age when Go's scheduler had the thread last
	rested  time.Duration     // the worker's age when the last turn ended
	running int               // 1 if calls ran then, else 0
	waits   [2]gaps           // how long the last waits were, by running
	turns   uint
	missed  int // second looks in a row that found nothing

	// The worker's lock protects:
	open   map[int32]*socket // by file descriptor
	closed bool
}

const (
	// holdTime is how long the poller keeps a thread to itself. Go's scheduler preempts goroutines after 10 ms.
	holdTime = 5 * time.Millisecond
	// maxVain is how many second looks may be in vain before there is one only every fewLooks turns.
	maxMissed, missedEvery = 8, 32
)

func newPoller(w *worker) (*poller, error) {
	p := &poller{worker: w, sockets: -1, alarm: -1, ended: make(chan struct{}), open: map[int32]*socket{}}
	if runtime.GOMAXPROCS(0) > w.core.cfg.Workers {
		p.hold = holdTime
	}
	if err := p.acquire(); err != nil {
		p.release()
		return nil, err
	}
	return p, nil
}

func (p *poller) acquire() (err error) {
	if p.sockets, err = newEpoll(); err != nil {
		return err
	}
	if p.alarm, err = newTimerfd(); err != nil {
		return err
	}
	if err = p.sockets.control(unix.EPOLL_CTL_ADD, int(p.alarm), unix.EPOLLIN|unix.EPOLLET); err != nil {
		return err
	}
	p.goPollWait, err = newGoPollWait(p.sockets)
	return err
}

// release gives back what acquire has got, all or some of it.
func (p *poller) release() {
	unix.Close(int(p.sockets))
	unix.Close(int(p.alarm))
	if p.goPollWait != nil {
		p.goPollWait.close()
	}
}

// run drives the sockets until close.
func (p *poller) run() {
	defer close(p.ended)
	w := p.worker
	for {
		n := p.wait()
		woken := w.age()
		p.waits[p.running].add(woken - p.rested)
		w.mu.Lock()
		if p.closed {
			w.mu.Unlock()
			return
		}
		w.setNow(woken)
		p.turn(n)
		p.running = min(w.core.calls, 1)
		w.mu.Unlock()
		p.rested = w.age()
		w.metrics.Worked(w.core.index, p.rested-woken)
	}
}

// close ends run and closes all sockets.
func (p *poller) close() {
	w := p.worker
	w.mu.Lock()
	p.closed = true
	p.alarm.set(0)
	w.mu.Unlock()
	<-p.ended
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range p.open {
		k.shut()
	}
	w.setAlarm = func(time.Duration) {}
	p.release()
}

// wait waits for events, and returns how many there are.
func (p *poller) wait() int {
	busy := len(p.ready) > 0
	switch {
	case p.rested-p.yielded >= p.hold:
	case busy:
		return p.sockets.wait(p.events[:], 0)
	case p.waits[p.running].longest() < p.hold:
		if n := p.sockets.wait(p.events[:], p.hold); n > 0 {
			return n
		}
	}
	if busy || !p.goPollWait.wait() {
		runtime.Gosched()
	}
	p.yielded = p.worker.age()
	return p.sockets.wait(p.events[:], 0)
}

// turn reads what can be read, and writes what comes of it. Before that it looks once more, where that pays: what has
// come meanwhile rides along.
func (p *poller) turn(events int) {
	p.dispatch(p.events[:events])
	p.read()
	p.turns++
	if len(p.worker.core.dirty) > 0 && (p.missed < maxMissed || p.turns%missedEvery == 0) {
		p.missed++
		if events = p.sockets.wait(p.events[:], 0); events > 0 {
			p.missed = 0
			p.dispatch(p.events[:events])
			p.read()
		}
	}
	p.worker.flush()
}

func (p *poller) dispatch(events []unix.EpollEvent) {
	for _, e := range events {
		if e.Fd == int32(p.alarm) {
			p.worker.step(func() { p.worker.expire(p.worker.core) })
			continue
		}
		// One for a socket that has been closed since may meet another of the same number, to which it does no harm.
		if k := p.open[e.Fd]; k != nil {
			k.happened(e.Events)
		}
	}
}

// read reads each socket that may have something once.
func (p *poller) read() {
	now := p.ready
	p.ready = p.spare[:0]
	for _, k := range now {
		if k.queued = k.read(); k.queued {
			p.ready = append(p.ready, k)
		}
	}
	clear(now)
	p.spare = now
}

// attach takes a socket over, of which the core makes a connection. If it cannot, nc is closed, unless it is no
// socket: a connection that goroutines drove for want of a descriptor would cost more as long as it lives.
func (p *poller) attach(nc net.Conn, ended func(), make func(driver) *conn) (*conn, error) {
	peer := transport.Peer(nc)
	fd, err := takeOver(nc)
	if err != nil {
		return nil, err
	}
	k := &socket{poller: p, fd: fd, peer: peer, ended: ended}
	k.patience.fire = func(*core) { k.shut() }
	p.worker.run(func(*core) {
		k.conn = make(k)
		p.open[int32(fd)] = k
		if p.closed {
			err = errFinished
		} else {
			err = p.sockets.control(unix.EPOLL_CTL_ADD, fd, reading)
		}
		if err != nil {
			k.conn.end(err)
			k.shut()
		}
	})
	return k.conn, nil
}

// takeOver makes nc's socket one that Go's poller does not watch, and closes nc, unless that is no socket.
func takeOver(nc net.Conn) (fd int, err error) {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return -1, errNoSocket
	}
	defer nc.Close()
	rc, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return -1, err
	}
	if e := rc.Control(func(theirs uintptr) { fd, err = unix.FcntlInt(theirs, unix.F_DUPFD_CLOEXEC, 0) }); e != nil {
		return -1, e
	}
	return fd, os.NewSyscallError("fcntl", err)
}
