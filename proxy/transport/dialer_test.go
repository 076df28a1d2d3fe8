package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network is one in which each address answers in its own way.
type network struct {
	answers map[string]answer

	mu     sync.Mutex
	dialed []string // addresses, each with the time
	began  time.Time
	open   int // connections
}

type answer struct {
	after time.Duration
	err   error // nil for a connection
}

var (
	silence    = answer{after: time.Hour}
	refused    = answer{err: errors.New("connection refused")}
	errTimeout = errors.New("i/o timeout")
)

func (n *network) connect(ctx context.Context, addr string) (net.Conn, error) {
	n.mu.Lock()
	n.dialed = append(n.dialed, fmt.Sprintf("%s %s", addr, time.Since(n.began)))
	n.mu.Unlock()
	a := n.answers[addr]
	select {
	case <-time.After(a.after):
	case <-ctx.Done():
		return nil, fmt.Errorf("dial %s: %w", addr, errTimeout)
	}
	if a.err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, a.err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open++
	return &fakeConn{network: n}, nil
}

type fakeConn struct {
	net.Conn
	network *network
}

func (c *fakeConn) Close() error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	c.network.open--
	return nil
}

// dialer returns one for a network, in which a name has these addresses.
func (n *network) dialer(ips ...string) *Dialer {
	d := NewDialer()
	d.Connect = n.connect
	d.lookUp = func(context.Context, string) (found []netip.Addr, _ error) {
		for _, ip := range ips {
			found = append(found, netip.MustParseAddr(ip))
		}
		return found, nil
	}
	n.began = time.Now()
	return d
}

func TestRace(t *testing.T) {
	for _, tt := range []struct {
		name    string
		ips     []string
		answers map[string]answer
		dialed  []string
		took    time.Duration // in all
		err     string
	}{
		{
			name:    "one address",
			ips:     []string{"10.0.0.1"},
			answers: map[string]answer{"10.0.0.1:80": {after: 3 * time.Second}},
			dialed:  []string{"10.0.0.1:80 0s"},
			took:    3 * time.Second,
		},
		{
			name:    "the first drops SYNs",
			ips:     []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"},
			answers: map[string]answer{"10.0.0.1:80": silence, "10.0.0.2:80": {after: 40 * time.Millisecond}},
			dialed:  []string{"10.0.0.1:80 0s", "10.0.0.2:80 250ms"},
			took:    290 * time.Millisecond,
		},
		{
			name:    "the first is slow and comes before the second",
			ips:     []string{"10.0.0.1", "10.0.0.2"},
			answers: map[string]answer{"10.0.0.1:80": {after: 300 * time.Millisecond}, "10.0.0.2:80": {after: 300 * time.Millisecond}},
			dialed:  []string{"10.0.0.1:80 0s", "10.0.0.2:80 250ms"},
			took:    300 * time.Millisecond,
		},
		{
			name:    "the first refuses",
			ips:     []string{"10.0.0.1", "10.0.0.2"},
			answers: map[string]answer{"10.0.0.1:80": refused, "10.0.0.2:80": {}},
			dialed:  []string{"10.0.0.1:80 0s", "10.0.0.2:80 0s"},
		},
		{
			name: "families take turns",
			ips:  []string{"fd00::1", "fd00::2", "fd00::1", "10.0.0.1", "::ffff:10.0.0.2", "10.0.0.3"},
			answers: map[string]answer{
				"[fd00::1]:80": silence, "10.0.0.1:80": silence, "[fd00::2]:80": silence, "10.0.0.2:80": silence, "10.0.0.3:80": {},
			},
			dialed: []string{"[fd00::1]:80 0s", "10.0.0.1:80 250ms", "[fd00::2]:80 500ms", "10.0.0.2:80 750ms", "10.0.0.3:80 1s"},
			took:   time.Second,
		},
		{
			name:    "none answers",
			ips:     []string{"10.0.0.1", "fd00::1", "10.0.0.2"},
			answers: map[string]answer{"10.0.0.1:80": silence, "[fd00::1]:80": refused, "10.0.0.2:80": refused},
			dialed:  []string{"10.0.0.1:80 0s", "[fd00::1]:80 250ms", "10.0.0.2:80 250ms"},
			err:     "dial 10.0.0.1:80: i/o timeout; dial [fd00::1]:80: connection refused; dial 10.0.0.2:80: connection refused",
		},
		{name: "a name without addresses", err: "lookup host: no address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{answers: tt.answers}
				c, err := n.dialer(tt.ips...).Dial(t.Context(), "host:80", Patience(0))
				if diff := cmp.Diff(tt.dialed, n.dialed); diff != "" {
					t.Errorf("addresses tried (-want +got):\n%s", diff)
				}
				if tt.err != "" {
					if err == nil || err.Error() != tt.err {
						t.Errorf("error = %v, want %s", err, tt.err)
					}
					return
				}
				if took := time.Since(n.began); err != nil || took != tt.took {
					t.Fatalf("took %s, error %v; want %s", took, err, tt.took)
				}
				c.Close()
				if n.open != 0 {
					t.Errorf("%d connections are left", n.open)
				}
			})
		})
	}
	t.Run("given up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := &network{answers: map[string]answer{"10.0.0.1:80": silence, "10.0.0.2:80": silence, "10.0.0.3:80": silence}}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := n.dialer("10.0.0.1", "10.0.0.2", "10.0.0.3").Dial(ctx, "host:80", Patience(0)); err == nil {
				t.Error("no error")
			}
			if len(n.dialed) != 2 || time.Since(n.began) != 300*time.Millisecond {
				t.Errorf("tried %q in %s", n.dialed, time.Since(n.began))
			}
		})
	})
}

func TestPatienceGrows(t *testing.T) {
	for failures, want := range []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 20 * time.Second} {
		if got := Patience(failures); got != want {
			t.Errorf("after %d failures: %s, want %s", failures, got, want)
		}
	}
	if got := Patience(1 << 40); got != MaxPatience {
		t.Errorf("after very many failures: %s", got)
	}
}
