package transport

import (
	"context"
	"syscall"

	"golang.org/x/sys/unix"
)

func limitUnacked(_ context.Context, _, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedTimeout.Milliseconds()))
	}); e != nil {
		return e
	}
	return err
}
