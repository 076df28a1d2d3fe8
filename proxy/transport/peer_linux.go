package transport

import (
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Peer names who is at the other end: an address, or of a unix socket, where addresses say nothing, the process.
func Peer(c net.Conn) net.Addr {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return c.RemoteAddr()
	}
	rc, err := u.SyscallConn()
	if err != nil {
		return c.RemoteAddr()
	}
	var cred *unix.Ucred
	if e := rc.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED) }); e != nil || err != nil {
		return c.RemoteAddr()
	}
	return process{int(cred.Pid), int(cred.Uid)}
}

// process is who connected to a unix socket.
type process struct{ pid, uid int }

func (process) Network() string  { return "unix" }
func (p process) String() string { return fmt.Sprintf("process %d of user %d", p.pid, p.uid) }
