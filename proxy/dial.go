package proxy

import (
	"net"
	"time"
)

// How connections to backends are made and found dead. HTTP/2 pings are not used: servers may punish them
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
		Timeout: ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount,
		},
		ControlContext: limitUnacked,
	}
}
