package netpoll

import (
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of the poller. Those that do not block, or not for long, do not tell Go's scheduler: telling it
// wakes other threads for nothing, which costs more than the call. A signal by which it wants the thread back
// interrupts them.

// epoll is an instance of epoll(7).
type epoll int

func newEpoll() (epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return epoll(fd), os.NewSyscallError("epoll_create1", err)
}

func (p epoll) control(op, fd int, events uint32) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(int(p), op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}))
}

// wait returns how many events there are, or will be within d. None is no promise that d has passed.
func (p epoll) wait(events []unix.EpollEvent, d time.Duration) int {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), uintptr(d.Milliseconds()), 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// timerfd is a clock that rings by being readable.
type timerfd int

func newTimerfd() (timerfd, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	return timerfd(fd), os.NewSyscallError("timerfd_create", err)
}

// set has it ring after d, and not before.
func (t timerfd) set(d time.Duration) {
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(d, 1)))} // 0 would be never
	syscall.RawSyscall6(unix.SYS_TIMERFD_SETTIME, uintptr(t), 0, uintptr(unsafe.Pointer(&at)), 0, 0, 0)
}

// goPollWait makes Go's poller wait for an epoll instance, and costs next to nothing while it does not: only then is the
// instance watched by another one, which Go's watches always.
type goPollWait struct {
	inner  epoll
	outer  epoll
	file   *os.File // outer
	rc     syscall.RawConn
	isOpen func(uintptr) bool
	closed bool // isOpen has found it so
	event  [1]unix.EpollEvent
}

func newGoPollWait(inner epoll) (d *goPollWait, err error) {
	d = &goPollWait{inner: inner}
	if d.outer, err = newEpoll(); err != nil {
		return nil, err
	}
	if err = unix.SetNonblock(int(d.outer), true); err == nil {
		err = d.outer.control(unix.EPOLL_CTL_ADD, int(inner), unix.EPOLLONESHOT)
	}
	d.file = os.NewFile(uintptr(d.outer), "epoll")
	if err == nil {
		err = d.file.SetReadDeadline(time.Time{}) // fails if Go's poller does not take it
	}
	if err == nil {
		d.rc, err = d.file.SyscallConn()
	}
	if err != nil {
		d.file.Close()
		return nil, err
	}
	d.isOpen = func(uintptr) bool {
		open := d.outer.wait(d.event[:], 0) > 0
		d.closed = d.closed || !open
		return open
	}
	return d, nil
}

// wait waits until there are events. It tells whether there were none before.
func (d *goPollWait) wait() (waited bool) {
	if err := d.outer.control(unix.EPOLL_CTL_MOD, int(d.inner), unix.EPOLLIN|unix.EPOLLONESHOT); err != nil {
		return false
	}
	d.closed = false
	d.rc.Read(d.isOpen)
	return d.closed
}

func (d *goPollWait) close() { d.file.Close() }

func rawRead(fd int, b []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return result(n, errno)
}

// maxChunks is how many chunks are written at once: highWater in frames, each with a header before it, and then some.
const maxChunks = 64

// rawWritev writes what stands in a few chunks.
func rawWritev(fd int, chunks [][]byte) (int, error) {
	if len(chunks) == 1 {
		b := chunks[0]
		n, _, errno := syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		return result(n, errno)
	}
	var iovecs [maxChunks]unix.Iovec
	for i, b := range chunks {
		iovecs[i].Base = unsafe.SliceData(b)
		iovecs[i].SetLen(len(b))
	}
	n, _, errno := syscall.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iovecs)), uintptr(len(chunks)))
	return result(n, errno)
}

func result(n uintptr, errno syscall.Errno) (int, error) {
	if errno == 0 {
		return int(n), nil
	}
	return 0, errno
}
