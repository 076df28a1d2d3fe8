package etcdtest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// A Forwarder passes TCP connections on to a target until told not to.
type Forwarder struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex // protects:
	target string
	open   chan struct{} // closed while bytes may pass
	cut    bool
	conns  map[net.Conn]struct{}
}

// Forward starts a forwarder to target, a host:port.
func Forward(t testing.TB, target string) *Forwarder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &Forwarder{listener: l, target: target, open: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	close(f.open)
	f.wg.Go(f.accept) // ends when the listener closes
	t.Cleanup(func() {
		l.Close()
		f.Cut()
		f.wg.Wait()
	})
	return f
}

// Endpoint is the host:port that stands for the target.
func (f *Forwarder) Endpoint() string { return f.listener.Addr().String() }

// Redirect sends new connections to another target.
func (f *Forwarder) Redirect(target string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.target = target
}

// Conns is how many connections are forwarded now.
func (f *Forwarder) Conns() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns) / 2 // each has two ends
}

// Stall stops passing bytes and closes nothing: each end sees the other go silent.
func (f *Forwarder) Stall() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.passing() {
		f.open = make(chan struct{})
	}
}

// Cut closes every connection, and new ones as they arrive.
func (f *Forwarder) Cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = true
	for c := range f.conns {
		c.Close()
	}
	f.letPass()
}

// Resume ends Stall and Cut. Stalled connections continue where they stopped.
func (f *Forwarder) Resume() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = false
	f.letPass()
}

func (f *Forwarder) passing() bool {
	select {
	case <-f.open:
		return true
	default:
		return false
	}
}

func (f *Forwarder) letPass() {
	if !f.passing() {
		close(f.open)
	}
}

func (f *Forwarder) accept() {
	for {
		client, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.wg.Go(func() { f.serve(client) }) // ends when either side closes, see Cut
	}
}

func (f *Forwarder) serve(client net.Conn) {
	defer client.Close()
	if !f.keep(client) {
		return
	}
	defer f.drop(client)
	server, err := net.Dial("tcp", f.next())
	if err != nil {
		return
	}
	defer server.Close()
	if !f.keep(server) {
		return
	}
	defer f.drop(server)

	var wg sync.WaitGroup
	for _, way := range []struct{ from, to net.Conn }{{client, server}, {server, client}} {
		wg.Go(func() {
			f.pass(way.to, way.from)
			way.to.Close()
			way.from.Close()
		})
	}
	wg.Wait()
}

// next is the target of a new connection, once bytes may pass: an etcd that is stopping waits for the first bytes of
// new connections.
func (f *Forwarder) next() string {
	f.mu.Lock()
	open := f.open
	f.mu.Unlock()
	<-open
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.target
}

// keep lets Cut close c; it is false if the cut has already happened.
func (f *Forwarder) keep(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.cut {
		f.conns[c] = struct{}{}
	}
	return !f.cut
}

func (f *Forwarder) drop(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
}

func (f *Forwarder) pass(to io.Writer, from io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		f.mu.Lock()
		open := f.open
		f.mu.Unlock()
		<-open
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
