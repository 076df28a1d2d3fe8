package e2e

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Idle connections to backends are probed by the kernel, and those of callers on this host are not.
func TestWhoIsProbed(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		in := w.startInstance("hello", "", 1)
		p := w.startProxy(listed("hello"))
		cc := p.dial("hello")
		greet(t, cc, 10)
		await(t, "a timer on every connection to the backend, and on none of the caller's", func() bool {
			callers, backends := 0, 0
			for _, s := range tcpSockets(t) {
				switch {
				case s.local == p.Addrs()[0]:
					callers++
					if s.timer == keepAliveTimer {
						t.Fatalf("the caller's connection is probed in %v", s.left)
					}
				case s.remote == in.addr:
					backends++
					if s.timer != keepAliveTimer || s.left > 15*time.Second {
						return false // there is data still that is not acknowledged
					}
				}
			}
			return callers > 0 && backends > 0
		})
	})
}

// keepAliveTimer is what /proc/net/tcp says of a socket that will be probed.
const keepAliveTimer = 2

type tcpSocket struct {
	local, remote string
	timer         int64
	left          time.Duration // until it expires
}

// tcpSockets is every connection by IPv4 of this network namespace.
func tcpSockets(t testing.TB) (sockets []tcpSocket) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	const established = "01"
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if f[3] != established {
			continue
		}
		timer, left, _ := strings.Cut(f[5], ":")
		s := tcpSocket{local: tcpAddr(t, f[1]), remote: tcpAddr(t, f[2])}
		s.timer, _ = strconv.ParseInt(timer, 16, 64)
		ticks, _ := strconv.ParseInt(left, 16, 64)
		s.left = time.Duration(ticks) * time.Second / 100
		sockets = append(sockets, s)
	}
	return sockets
}

func tcpAddr(t testing.TB, s string) string {
	ip, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(ip)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil {
		t.Fatalf("/proc/net/tcp: address %q", s)
	}
	return fmt.Sprintf("%v:%d", netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.NativeEndian.Uint32(b)))), n)
}
