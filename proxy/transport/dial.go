// Package transport decides how both sides are reached: how listeners are opened, how backends are dialled, and how
// connections are found dead whose other end is gone without a word.
//
// It leaves to others what is said on a connection (the engines), and what is done about one that is lost (the engines
// and package picker).
package transport

import (
	"context"
	"net"
	"time"
)

// How connections are made and found dead. HTTP/2 PINGs are not used unless configured: servers may punish them
// (ENHANCE_YOUR_CALM), while TCP finds a dead peer as well.
const (
	ConnectTimeout    = time.Second
	ConnectBackoffMin = 100 * time.Millisecond
	ConnectBackoffMax = 5 * time.Second

	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3
	// unackedTimeout ends a connection on which sent data is not acknowledged, which keep-alive does not see.
	unackedTimeout = 20 * time.Second
)

// BackendDialer returns the dialer for connections to backends.
func BackendDialer() *net.Dialer {
	return &net.Dialer{
		Timeout:         ConnectTimeout,
		KeepAliveConfig: keepAlive,
		ControlContext:  limitUnacked,
	}
}

var keepAlive = net.KeepAliveConfig{
	Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount,
}

// FindDead has the kernel end an accepted connection whose peer is gone without a word. A Unix socket's peer
// cannot go so.
func FindDead(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	// What cannot be set is not worth refusing a caller for.
	_ = tcp.SetKeepAliveConfig(keepAlive)
	if rc, err := tcp.SyscallConn(); err == nil {
		_ = limitUnacked(context.Background(), "", "", rc)
	}
}
