package portowner

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestWhoListens(t *testing.T) {
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	self := fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(name)), os.Getpid())
	for _, taken := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		l, err := net.Listen("tcp", taken)
		if err != nil {
			t.Logf("not tested at %s: %v", taken, err)
			continue
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		wanted := []string{l.Addr().String(), ":" + port}
		if taken != "[::1]:0" {
			wanted = append(wanted, "localhost:"+port, "127.0.0.1:"+port)
		}
		for _, address := range wanted {
			if got := ofPort(address); got != self {
				t.Errorf("%s, with %s taken, is taken by %q, want %q", address, l.Addr(), got, self)
			}
		}
		if taken == "127.0.0.1:0" {
			if got := ofPort("127.0.0.2:" + port); got != "" {
				t.Errorf("127.0.0.2:%s, with %s taken, is taken by %q, want nobody", port, l.Addr(), got)
			}
		}
	}
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := ofSocket(socket); got != self {
		t.Errorf("the socket is taken by %q, want %q", got, self)
	}
}

func TestExplain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_, err = net.Listen("tcp", address)
	want := fmt.Sprintf("(pid %d): listen tcp %s: bind: address already in use", os.Getpid(), address)
	if got := Explain(err, address); !strings.Contains(got.Error(), want) || !errors.Is(got, syscall.EADDRINUSE) {
		t.Errorf("got %v, want it to hold %q", got, want)
	}
	l.Close()
	if got, want := Explain(err, address).Error(), address+" is taken by another process: "+err.Error(); got != want {
		t.Errorf("once it is free: got %q, want %q", got, want)
	}
	if got := Explain(errors.ErrUnsupported, address); got != errors.ErrUnsupported {
		t.Errorf("another error became %v", got)
	}
}
