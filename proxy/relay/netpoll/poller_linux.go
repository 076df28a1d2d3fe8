package netpoll

import (
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Poller drives the plain sockets of a host from one goroutine: it waits until some can be read, reads all of them,
// and writes what comes of it, so that what goes to one peer goes in one piece.
//
// It has an epoll instance of its own. Go's poller would do, but costs the sleep and the waking of a goroutine for
// every socket, and a read that finds nothing. Between events that follow each other closely it waits in the kernel
// without telling Go's scheduler, whose housekeeping for a goroutine that sleeps and wakes that often would cost
// more than the calls do. It does so for holdTime at most, and where the last waits have been shorter; otherwise it
// waits as other goroutines do, and so it does always where other goroutines need its thread.
type Poller struct {
	host       Host
	sockets    epoll // and the alarm
	alarm      timerfd
	goPollWait *goPollWait   // at which Go's poller waits for sockets
	hold       time.Duration // holdTime or 0
	ended      chan struct{}

	// Owned by run:
	events    [128]unix.EpollEvent
	chunks    [maxChunks][]byte // scratch of socket.write
	discarded [16 << 10]byte    // scratch of socket.discard
	ready     []*socket         // may have more to be read
	spare     []*socket         // ready, when it was read last
	yielded   time.Duration     // the host's age when Go's scheduler had the thread last
	rested    time.Duration     // the host's age when the last turn ended
	running   int               // 1 if calls ran then, else 0
	waits     [2]gaps           // how long the last waits were, by running
	turns     uint
	missed    int // second looks in a row that found nothing

	// The host's lock protects:
	open      map[int32]*socket // by file descriptor
	lingering []*socket         // that have been closed, and not yet shut; the first are shut first
	rings     time.Duration     // the host's age when the alarm goes off; 0 for not at all
	closed    bool
}

const (
	// holdTime is how long the poller keeps a thread to itself. Go's scheduler preempts goroutines after 10 ms.
	holdTime = 5 * time.Millisecond
	// maxMissed is how many second looks in a row may miss before there is one only every missedEvery turns.
	maxMissed, missedEvery = 8, 32
)

// NewPoller returns a poller, which Run runs. Patient says that it may keep a thread to itself.
func NewPoller(host Host, patient bool) (*Poller, error) {
	p := &Poller{host: host, sockets: -1, alarm: -1, ended: make(chan struct{}), open: map[int32]*socket{}}
	if patient {
		p.hold = holdTime
	}
	if err := p.acquire(); err != nil {
		p.release()
		return nil, err
	}
	return p, nil
}

func (p *Poller) acquire() (err error) {
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
func (p *Poller) release() {
	unix.Close(int(p.sockets))
	unix.Close(int(p.alarm))
	if p.goPollWait != nil {
		p.goPollWait.close()
	}
}

// Run drives the sockets until Close.
func (p *Poller) Run() {
	defer close(p.ended)
	for {
		n := p.wait()
		woken := p.host.Age()
		p.waits[p.running].add(woken - p.rested)
		if !p.work(n, woken) {
			return
		}
		p.rested = p.host.Age()
		p.host.Worked(p.rested - woken)
	}
}

// work is one stretch of it, with the lock held. It returns false when the poller has been closed.
func (p *Poller) work(events int, woken time.Duration) bool {
	p.host.Lock(woken)
	defer p.host.Unlock()
	if p.closed {
		return false
	}
	p.turn(events)
	p.running = 0
	if p.host.Busy() {
		p.running = 1
	}
	return true
}

// Close ends Run and closes all sockets. The host must not set the alarm any more.
func (p *Poller) Close() {
	p.host.Lock(p.host.Age())
	p.closed = true
	p.alarm.set(0)
	p.host.Unlock()
	<-p.ended
	p.host.Lock(p.host.Age())
	defer p.host.Unlock()
	for _, k := range p.open {
		k.shut()
	}
	p.release()
}

// SetAlarm calls the host's Expire when it is as old as at, or before; it is as old as now. It is called with the lock
// held.
func (p *Poller) SetAlarm(now, at time.Duration) {
	if !p.closed && (p.rings == 0 || at < p.rings) {
		p.rings = at
		p.alarm.set(at - now)
	}
}

// onAlarm is called when the alarm has gone off.
func (p *Poller) onAlarm() {
	p.rings = 0
	p.host.Expire()
	for len(p.lingering) > 0 {
		k, now := p.lingering[0], p.host.Age()
		if k.fd >= 0 && k.shutAt > now {
			p.SetAlarm(now, k.shutAt)
			return
		}
		p.lingering = p.lingering[1:]
		k.shut()
	}
}

// linger shuts a socket after lingerTimeout, if that has not been done before.
func (p *Poller) linger(k *socket) {
	now := p.host.Age()
	k.shutAt = now + lingerTimeout
	p.lingering = append(p.lingering, k)
	p.SetAlarm(now, k.shutAt)
}

// wait waits for events, and returns how many there are.
func (p *Poller) wait() int {
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
	p.yielded = p.host.Age()
	return p.sockets.wait(p.events[:], 0)
}

// turn reads what can be read, and writes what comes of it. Before that it looks once more, where that pays: what has
// come meanwhile rides along.
func (p *Poller) turn(events int) {
	p.dispatch(p.events[:events])
	p.read()
	p.turns++
	if p.host.Pending() && (p.missed < maxMissed || p.turns%missedEvery == 0) {
		p.missed++
		if events = p.sockets.wait(p.events[:], 0); events > 0 {
			p.missed = 0
			p.dispatch(p.events[:events])
			p.read()
		}
	}
	p.host.Flush()
}

func (p *Poller) dispatch(events []unix.EpollEvent) {
	for _, e := range events {
		if e.Fd == int32(p.alarm) {
			p.onAlarm()
			continue
		}
		// One for a socket that has been closed since may meet another of the same number, to which it does no harm.
		if k := p.open[e.Fd]; k != nil {
			k.happened(e.Events)
		}
	}
}

// read reads each socket that may have something once.
func (p *Poller) read() {
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

// Attach drives the socket of nc, whose peer is at an address, for the connection that start makes. Ended is called when
// the socket has been closed. If Attach fails, nc is closed, unless it is no socket: a connection that goroutines drove
// for want of a descriptor would cost more as long as it lives.
func (p *Poller) Attach(nc net.Conn, peer net.Addr, start Start, ended func()) error {
	fd, err := takeOver(nc)
	if err != nil {
		return err
	}
	k := &socket{poller: p, fd: fd, peer: peer, ended: ended}
	p.host.Lock(p.host.Age())
	defer p.host.Unlock()
	if k.conn = start(k); k.conn == nil {
		unix.Close(fd)
		return ErrNotStarted
	}
	p.open[int32(fd)] = k
	if err = errClosed; !p.closed {
		err = p.sockets.control(unix.EPOLL_CTL_ADD, fd, reading)
	}
	if err != nil {
		k.conn.Lost(err)
		k.shut()
	}
	p.host.Flush()
	return nil
}

// takeOver makes nc's socket one that Go's poller does not watch, and closes nc, unless that is no socket.
func takeOver(nc net.Conn) (fd int, err error) {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return -1, ErrNoSocket
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

// gaps are the last two times that nothing happened.
type gaps [2]time.Duration

func (g *gaps) add(d time.Duration) { *g = gaps{d, g[0]} }

func (g *gaps) longest() time.Duration { return max(g[0], g[1]) }
