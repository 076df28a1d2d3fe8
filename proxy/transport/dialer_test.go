package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
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

// Ten thousand attempts that each keep the processor busy for a millisecond.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const attempts = 10_000
		d := NewDialer()
		var mu sync.Mutex
		var busy, most, last int
		var all sync.WaitGroup
		for i := range attempts {
			all.Go(func() {
				end, err := d.Turn(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				defer end()
				mu.Lock()
				if i < last-maxTurns {
					t.Errorf("attempt %d begins behind attempt %d", i, last)
				}
				last = max(last, i)
				busy++
				most = max(most, busy)
				mu.Unlock()
				time.Sleep(time.Millisecond)
				mu.Lock()
				busy--
				mu.Unlock()
			})
			synctest.Wait() // they come in order
		}
		all.Wait()
		if most != maxTurns {
			t.Errorf("%d attempts at a time, want %d", most, maxTurns)
		}
	})
}

// Who waits for a host that is gone does not keep others from connecting.
func TestTurnsOfThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDialer()
		var ends []func()
		for range 3 * maxTurns {
			end, err := d.Turn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ends = append(ends, end)
		}
		began := time.Now()
		end, err := d.Turn(t.Context())
		if err != nil || time.Since(began) > turnTime {
			t.Errorf("a turn after %s, error %v", time.Since(began), err)
		}
		end()
		for _, end := range ends {
			end()
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range maxTurns {
			if _, err := d.Turn(ctx); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if _, err := d.Turn(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v", err)
		}
		time.Sleep(turnTime)
	})
}

// crowd is endpoints that are down, and tried again and again.
type crowd struct {
	dialer *Dialer
	tries  atomic.Int64
}

func (c *crowd) join(ctx context.Context, all *sync.WaitGroup, failures int) {
	all.Go(func() { // ends with ctx
		for ctx.Err() == nil {
			place := c.dialer.Retry(failures)
			select {
			case <-place.Called():
				c.tries.Add(1)
				time.Sleep(5 * time.Second) // of backoff
			case <-ctx.Done():
				place.Leave()
			}
		}
	})
}

func TestEndpointsThatAreDownAreTriedOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		c := &crowd{dialer: NewDialer()}
		for range 10_000 {
			c.join(ctx, &all, 10)
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		if tries, want := c.tries.Load(), int64(time.Minute/retryPeriod*retryBatch); tries < want || tries > want+2*retryBatch {
			t.Errorf("%d tries in a minute, want %d", tries, want)
		}
		began := time.Now()
		place := c.dialer.Retry(1)
		<-place.Called()
		if took := time.Since(began); took > retryPeriod {
			t.Errorf("one that has just failed waits %s behind those that are down for long", took)
		}
		cancel()
		all.Wait()
		time.Sleep(time.Minute)
	})
}

func TestAFewThatAreDownDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		c := &crowd{dialer: NewDialer()}
		for range 10 {
			c.join(ctx, &all, 10)
		}
		time.Sleep(time.Minute)
		if tries := c.tries.Load(); tries < 110 {
			t.Errorf("%d tries of ten in a minute, with 5 s between them", tries)
		}
		cancel()
		all.Wait()
	})
}

// After an outage of all, those that connect bring others with them.
func TestAllComeBackTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const endpoints = 10_000
		began := time.Now()
		d := NewDialer()
		var all sync.WaitGroup
		for range endpoints {
			all.Go(func() {
				place := d.Retry(10)
				defer place.Leave()
				<-place.Called()
				time.Sleep(10 * time.Millisecond)
				d.Revived()
			})
		}
		all.Wait()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%d endpoints come back within %s", endpoints, took)
		}
	})
}

func TestGreetings(t *testing.T) {
	for _, tt := range []struct{ first, want string }{
		{"", ""},
		{"\x00\x00\x12\x04\x00\x00\x00\x00\x00", ""},
		{"\x00\x00", ""},
		{"\x15\x03\x03\x00\x02\x02\x46", "it answers in TLS"},
		{"\x16\x03\x01\x02\x00", "it answers in TLS"},
		{"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", `it answers in HTTP/1, "HTTP/1.1 400 Bad Request"`},
		{"HTTP/1.0 400 " + strings.Repeat("x", 1000), `"HTTP/1.0 400 ` + strings.Repeat("x", maxQuote-13) + `"`},
		{"220 mail ESMTP\r\n", `it answers with "220 mail ESMTP\r\n"`},
		{"SSH-2.0-x", `it answers with "SSH-2.0-x"`},
		{"\x15\x02\x00\x00", "HTTP/2 does not"},
	} {
		got := fmt.Sprint(ForeignGreeting([]byte(tt.first)))
		if tt.want == "" && got != "<nil>" || !strings.Contains(got, tt.want) && tt.want != "" {
			t.Errorf("%q: %s, want %q", tt.first, got, tt.want)
		}
	}
}
