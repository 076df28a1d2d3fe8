//go:build !linux

package transport

import "net"

// Peer names who is at the other end.
func Peer(c net.Conn) net.Addr { return c.RemoteAddr() }
