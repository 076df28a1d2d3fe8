package transport

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deaf listens at an address and drops SYNs: its backlog is full.
func deaf(t *testing.T, host string) (port string) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Skipf("there is no second address to listen at: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	rc, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := rc.Control(func(fd uintptr) { err = unix.Listen(int(fd), 0) }); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		c, err := net.DialTimeout("tcp", l.Addr().String(), 200*time.Millisecond)
		if err != nil {
			_, port, _ := net.SplitHostPort(l.Addr().String())
			return port
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Skip("the backlog takes any number")
	return ""
}

// A name with two addresses of which the first drops SYNs is connected to by the second.
func TestDialBesideAnAddressThatDropsSYNs(t *testing.T) {
	port := deaf(t, "127.0.0.2")
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.3", port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := NewDialer()
	d.lookUp = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")}, nil
	}
	began := time.Now()
	c, err := d.Dial(t.Context(), net.JoinHostPort("two.example", port), Patience(0))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if took := time.Since(began); c.RemoteAddr().String() != l.Addr().String() || took < attemptDelay {
		t.Errorf("connected to %s in %s", c.RemoteAddr(), took)
	}
	l.Close()
	_, err = d.Dial(t.Context(), net.JoinHostPort("two.example", port), 500*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "127.0.0.2:"+port+": i/o timeout") ||
		!strings.Contains(err.Error(), "127.0.0.3:"+port+": connect: connection refused") {
		t.Errorf("error = %v, want both addresses'", err)
	}
}
