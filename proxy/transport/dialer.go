package transport

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// ConnectBackoffMin and ConnectBackoffMax are how long an endpoint that could not be connected to is left alone, the
	// first time and after some.
	ConnectBackoffMin = 100 * time.Millisecond
	ConnectBackoffMax = 5 * time.Second

	// minPatience and MaxPatience are how long TCP may take to connect, and HTTP/2 to greet, the first time and after
	// some. The first is enough for a SYN that is lost twice: the kernel sends another after 1 s and 3 s.
	minPatience = 5 * time.Second
	MaxPatience = 20 * time.Second

	// maxTurns is how many attempts to connect may be in their first moment, which keeps processors busy, at a time.
	// More would only have each take longer. One that takes longer than turnTime waits for others, as for a host that
	// is gone, and must not keep those from connecting that can.
	maxTurns = 64
	turnTime = time.Second

	// retryBatch is how many attempts there are in a retryPeriod at endpoints that are down: it bounds what they cost for
	// ever, however many they are.
	retryBatch  = 10
	retryPeriod = 300 * time.Millisecond

	// attemptDelay is how long an address of a name may take before the next is tried beside it: the Connection Attempt
	// Delay of RFC 8305, section 5.
	attemptDelay = 250 * time.Millisecond
)

// Patience is how long TCP may take to connect, and then HTTP/2 to greet, after so many attempts that have failed.
func Patience(failures int) time.Duration {
	return min(minPatience<<min(failures, 8), MaxPatience)
}

// Backoff is the least time between the beginning of one attempt and that of the next, after so many that have failed. It
// is gRPC's, with less at most: instances are near, and are tried for callers that wait.
func Backoff(failures int) time.Duration {
	d := float64(ConnectBackoffMin) * math.Pow(1.6, float64(min(failures, 64)-1))
	return time.Duration(min(d, float64(ConnectBackoffMax)) * (0.8 + 0.4*rand.Float64()))
}

// A Dialer connects to backends. There is one in a process, which bounds what connecting costs.
type Dialer struct {
	turns *semaphore.Weighted
	line  line

	lookUp func(ctx context.Context, host string) ([]netip.Addr, error)
	// Connect connects to one address by TCP. Tests may have it connect to something else, before the first attempt.
	Connect func(ctx context.Context, addr string) (net.Conn, error)
}

// NewDialer returns a dialer, to be handed to whoever connects.
func NewDialer() *Dialer {
	return &Dialer{
		turns: semaphore.NewWeighted(maxTurns),
		line:  line{period: retryPeriod, batch: retryBatch},
		lookUp: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
		Connect: func(ctx context.Context, addr string) (net.Conn, error) {
			return backendDialer().DialContext(ctx, "tcp", addr)
		},
	}
}

// Turn waits until one attempt to connect more may begin, which ends the turn when it knows what became of it. Those
// who wait get theirs in the order in which they have come.
func (d *Dialer) Turn(ctx context.Context) (end func(), err error) {
	if err := d.turns.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	release := sync.OnceFunc(func() { d.turns.Release(1) })
	late := time.AfterFunc(turnTime, release)
	return func() {
		late.Stop()
		release()
	}, nil
}

// Retry puts an endpoint that is down in the line of those to be tried again. It may take long where many are down.
// Those go first that were not for long.
func (d *Dialer) Retry(failures int) *Place { return d.line.join(failures <= soonFailures) }

// Revived says that an endpoint that was down is connected. Others may be, too: the next ones are tried at once.
func (d *Dialer) Revived() { d.line.call(revivedCalls) }

// Dial connects to host:port by TCP, with so much patience for each of the host's addresses.
func (d *Dialer) Dial(ctx context.Context, addr string, patience time.Duration) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return d.attempt(ctx, addr, patience)
	}
	addrs, err := d.resolve(ctx, host, port, patience)
	if err != nil {
		return nil, err
	}
	return d.race(ctx, addrs, patience)
}

func (d *Dialer) attempt(ctx context.Context, addr string, patience time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return d.Connect(ctx, addr)
}

func (d *Dialer) resolve(ctx context.Context, host, port string, patience time.Duration) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ips, err := d.lookUp(ctx, host)
	if err != nil {
		return nil, err
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("lookup %s: no address", host)
	}
	var addrs []string
	for _, ip := range interleave(ips) {
		if addr := net.JoinHostPort(ip.String(), port); !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs, nil
}

// interleave sorts addresses so that families alternate, that of the first first (RFC 8305, section 4).
func interleave(ips []netip.Addr) []netip.Addr {
	var family [2][]netip.Addr
	first := ips[0].Unmap().Is4()
	for _, ip := range ips {
		ip = ip.Unmap()
		if ip.Is4() == first {
			family[0] = append(family[0], ip)
		} else {
			family[1] = append(family[1], ip)
		}
	}
	var mixed []netip.Addr
	for i := range max(len(family[0]), len(family[1])) {
		for _, f := range family {
			if i < len(f) {
				mixed = append(mixed, f[i])
			}
		}
	}
	return mixed
}

type attempted struct {
	conn net.Conn
	err  error
	addr int // of those that race
}

// race tries addresses one after the other, each as soon as the one before has failed or has taken longer than
// attemptDelay, and returns the first connection (RFC 8305, section 5).
func (d *Dialer) race(ctx context.Context, addrs []string, patience time.Duration) (net.Conn, error) {
	if len(addrs) == 1 {
		return d.attempt(ctx, addrs[0], patience)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan attempted)
	next, running := 0, 0
	defer func() {
		cancel()
		for range running { // those that have lost
			if r := <-results; r.conn != nil {
				r.conn.Close()
			}
		}
	}()
	failed := make(allFailed, len(addrs))
	delay := time.NewTimer(0)
	defer delay.Stop()
	for {
		select {
		case <-delay.C:
		case r := <-results:
			running--
			if r.err == nil {
				return r.conn, nil
			}
			failed[r.addr] = r.err
		}
		if next < len(addrs) && (next == 0 || ctx.Err() == nil) {
			i := next
			go func() { // ends when it is connected or not; its result is taken in any case
				c, err := d.attempt(ctx, addrs[i], patience)
				results <- attempted{c, err, i}
			}()
			next, running = next+1, running+1
			delay.Reset(attemptDelay)
		} else if running == 0 {
			return nil, failed[:next]
		}
	}
}

// allFailed is why each address of a name could not be connected to.
type allFailed []error

func (f allFailed) Error() string {
	var texts []string
	for _, err := range f {
		texts = append(texts, err.Error())
	}
	return strings.Join(texts, "; ")
}

func (f allFailed) Unwrap() []error { return f }
