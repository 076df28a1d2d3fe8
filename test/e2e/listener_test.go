package e2e

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/internal/app"
)

// listenAt makes the proxy accept calls of "hello" at one address.
func listenAt(address string) func(*configs.Config) {
	return func(cfg *configs.Config) {
		cfg.Listeners = []configs.Listener{{Address: address, Service: "hello"}}
	}
}

// A unix socket serves calls, may be used by its group, and goes with its proxy.
func TestUnixSocket(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		socket := filepath.Join(t.TempDir(), "hello.sock")
		in := w.startInstance("hello", "", 1)
		p := w.startProxy(listenAt("unix:" + socket))
		info, err := os.Stat(socket)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := info.Mode(), fs.ModeSocket|0o660; got != want {
			t.Errorf("mode %v, want %v", got, want)
		}
		if addr, err := sayHello(within(t), dial(t, "unix:"+socket)); err != nil || addr != in.addr {
			t.Errorf("the call ends with %q, %v; want %q", addr, err, in.addr)
		}
		p.stop()
		if _, err := os.Stat(socket); !os.IsNotExist(err) {
			t.Errorf("the socket outlives its proxy: %v", err)
		}
	})
}

// A socket that a process left behind when it was killed is replaced.
func TestStaleUnixSocketIsReplaced(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		socket := filepath.Join(t.TempDir(), "hello.sock")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
		in := w.startInstance("hello", "", 1)
		w.startProxy(listenAt("unix:" + socket))
		if addr, err := sayHello(within(t), dial(t, "unix:"+socket)); err != nil || addr != in.addr {
			t.Errorf("the call ends with %q, %v; want %q", addr, err, in.addr)
		}
	})
}

// What is not the proxy's to take is left alone, and the proxy says what to do.
func TestListenersThatCannotBeHad(t *testing.T) {
	w := newWorld(t, engines[0])
	w.startInstance("hello", "", 1)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "hello.sock")
	other := w.startProxy(listenAt("unix:" + socket))
	for _, c := range []struct {
		name   string
		change func(*configs.Config)
		want   []string
	}{
		{"socket in use", listenAt("unix:" + socket), []string{"listeners[0].address", socket, "another process listens there"}},
		{"file", listenAt("unix:" + file), []string{"listeners[0].address", file, "is not a socket"}},
		{"directory that is not there", listenAt("unix:" + dir + "/none/hello.sock"), []string{"listeners[0].address", "no such file or directory"}},
		{"port in use", listenAt(other.AdminAddr()), []string{"listeners[0].address", other.AdminAddr(), "in use"}},
		{"admin port in use", func(cfg *configs.Config) { cfg.Admin.Address = other.AdminAddr() }, []string{"admin.address", "in use"}},
		{"metrics port in use", func(cfg *configs.Config) { cfg.Metrics.Address = other.AdminAddr() }, []string{"metrics.address", "in use"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := app.New(w.config(c.change), "e2e", zap.NewNop(), zap.NewAtomicLevel())
			if err == nil {
				t.Fatal("the proxy starts")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "precious" {
		t.Errorf("the file holds %q, %v", content, err)
	}
	if _, err := sayHello(within(t), dial(t, "unix:"+socket)); err != nil {
		t.Errorf("the other proxy is disturbed: %v", err)
	}
}
