package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
)

// Ports are given out in turn, from below those that the tests' etcds take and those that the system gives to
// outgoing connections: an address that its owner has left refuses connections until the owner comes back, and no
// other story's server answers there.
const (
	firstPort = 3000
	ports     = 7000
)

var lastPort atomic.Uint32

// Tests of other processes take theirs from the same range, but hardly the same ones.
func init() { lastPort.Store(rand.Uint32N(ports)) }

// newAddr returns an address of loopback that nobody listens at. It does not listen there to find out: a process that
// is started at that moment would inherit the socket, and have the address for a little longer.
func newAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", firstPort+lastPort.Add(1)%ports)
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return addr
		}
		c.Close()
	}
	t.Fatal("no free port on loopback")
	return ""
}
