package embedetcd

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports are below those that the system uses for outgoing connections (from 32768 on Linux), so that a stopped server
// finds its port still free when it starts again.
const (
	firstPort = 10000
	lastPort  = 32767
)

// freePort finds a loopback address that nobody listens on now.
func freePort() (string, error) {
	var err error
	for range 100 {
		var l net.Listener
		addr := fmt.Sprintf("127.0.0.1:%d", firstPort+rand.IntN(lastPort-firstPort+1))
		if l, err = net.Listen("tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", fmt.Errorf("no free port on loopback: %w", err)
}
