package transport_test

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lbproxy/lbproxy/proxy/transport"
)

// deadPeerOptions are those by which the kernel finds dead peers, in seconds.
type deadPeerOptions struct{ keepAlive, idle, interval, count, unacked int }

func deadPeerOptionsOf(t *testing.T, c net.Conn) (o deadPeerOptions) {
	t.Helper()
	rc, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	get := func(fd uintptr, level, option int) int {
		n, err := unix.GetsockoptInt(int(fd), level, option)
		if err != nil {
			t.Error(err)
		}
		return n
	}
	if err := rc.Control(func(fd uintptr) {
		o = deadPeerOptions{
			keepAlive: get(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE),
			idle:      get(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE),
			interval:  get(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL),
			count:     get(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT),
			unacked:   get(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) / 1000,
		}
	}); err != nil {
		t.Fatal(err)
	}
	return o
}

// connect returns both ends of a connection to an address of this host, as the proxy has them.
func connect(t *testing.T, host string) (dialled, accepted net.Conn) {
	t.Helper()
	l, err := transport.Listen(net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if dialled, err = transport.NewDialer().Connect(t.Context(), l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close() })
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	transport.FindDead(accepted)
	return dialled, accepted
}

// As many probes as are configured may be lost before a connection is, and those of connections that were made
// together do not go out together.
func TestIdleConnectionsSurviveLostProbes(t *testing.T) {
	check := func(t *testing.T, connection func() net.Conn) {
		idle := map[int]bool{}
		for range 50 {
			o := deadPeerOptionsOf(t, connection())
			if o.keepAlive == 0 || o.count != 3 || o.unacked < o.idle+o.interval*o.count {
				t.Fatalf("options %+v: want 3 probes, and time for all of them", o)
			}
			if o.idle+o.interval*o.count > 30 || o.unacked > 30 {
				t.Fatalf("options %+v: want a dead peer found within 30 s", o)
			}
			idle[o.idle] = true
		}
		if len(idle) < 3 {
			t.Errorf("50 connections are probed after %v seconds", idle)
		}
	}
	t.Run("to backends", func(t *testing.T) {
		check(t, func() net.Conn {
			c, _ := connect(t, "127.0.0.1")
			return c
		})
	})
	t.Run("of callers on other hosts", func(t *testing.T) {
		host := addressOfThisHost(t)
		check(t, func() net.Conn {
			_, c := connect(t, host)
			return c
		})
	})
}

func TestCallersOnLoopbackAreNotProbed(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "127.9.9.9", "::1"} {
		if _, c := connect(t, host); deadPeerOptionsOf(t, c).keepAlive != 0 || deadPeerOptionsOf(t, c).unacked != 0 {
			t.Errorf("caller at %v: options %+v", c.RemoteAddr(), deadPeerOptionsOf(t, c))
		}
	}
}

// addressOfThisHost is one that is not on loopback.
func addressOfThisHost(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip := a.(*net.IPNet).IP; ip.IsGlobalUnicast() {
			return ip.String()
		}
	}
	t.Skip("this host has no address but loopback's")
	return ""
}
