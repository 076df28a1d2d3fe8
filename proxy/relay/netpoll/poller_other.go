//go:build !linux

package netpoll

import (
	"errors"
	"net"
	"time"
)

// Poller is for Linux only.
type Poller struct{}

// NewPoller fails.
func NewPoller(Host, bool) (*Poller, error) { return nil, errors.ErrUnsupported }

// Run does nothing.
func (*Poller) Run() {}

// Close does nothing.
func (*Poller) Close() {}

// SetAlarm does nothing.
func (*Poller) SetAlarm(now, at time.Duration) {}

// Attach fails.
func (*Poller) Attach(net.Conn, net.Addr, Start, func()) error { return ErrNoSocket }
