// Package transport decides how both sides are reached: how listeners are opened, how backends are dialled, and how
// connections are found dead whose other end is gone without a word.
//
// It leaves to others what is said on a connection (the engines), and what is done about one that is lost (the engines
// and package picker).
package transport

import (
	"context"
	"math/rand/v2"
	"net"
	"time"
)

// How connections are made and found dead. HTTP/2 PINGs are not used unless configured: servers may punish them
// (ENHANCE_YOUR_CALM), while TCP finds a dead peer as well.
const (
	// An idle connection is probed after a random time, so that those made together are not probed together: as many
	// packets at a moment overflow a queue, of the loopback's for one, and the lost ones are taken for dead peers.
	minKeepAliveIdle  = 10 * time.Second
	maxKeepAliveIdle  = 15 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3
	// unackedTimeout ends a connection on which sent data is not acknowledged, which keep-alive does not see. Linux
	// ends idle ones by it as well, and no longer counts the probes: it must leave time for all of them.
	unackedTimeout = maxKeepAliveIdle + keepAliveCount*keepAliveInterval
)

// backendDialer returns a dialer for one connection to a backend.
func backendDialer() *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: keepAlive(),
		ControlContext:  limitUnacked,
	}
}

func keepAlive() net.KeepAliveConfig {
	const second = time.Second // the kernel knows no less
	return net.KeepAliveConfig{
		Enable:   true,
		Idle:     minKeepAliveIdle + rand.N((maxKeepAliveIdle-minKeepAliveIdle)/second+1)*second,
		Interval: keepAliveInterval,
		Count:    keepAliveCount,
	}
}

// FindDead has the kernel end an accepted connection whose peer is gone without a word. A peer on this host cannot go
// so, and one that is stopped for a while, by a debugger say, is not dead.
func FindDead(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok || c.RemoteAddr().(*net.TCPAddr).IP.IsLoopback() {
		return
	}
	// What cannot be set is not worth refusing a caller for.
	_ = tcp.SetKeepAliveConfig(keepAlive())
	if rc, err := tcp.SyscallConn(); err == nil {
		_ = limitUnacked(context.Background(), "", "", rc)
	}
}
