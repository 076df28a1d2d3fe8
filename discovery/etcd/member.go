package etcd

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

const lookupTimeout = time.Second

// ErrUnanswered is for callers of [Client.Do] that have waited long enough: their member is left for another.
var ErrUnanswered = errors.New("this member of etcd does not answer")

// unanswered reports whether err means that a member does not work, by itself or because it cannot reach the others.
func unanswered(err error) bool {
	if served, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return served.Code() == codes.Unavailable
	}
	return errors.Is(err, ErrUnanswered) || errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.Unavailable
}

// memberInUse is the member that was asked last.
type memberInUse struct{ addr atomic.Pointer[string] } // as the connection has it

func (u *memberInUse) note(p *peer.Peer) {
	if p.Addr == nil {
		return
	}
	if addr := p.Addr.String(); u.addr.Load() == nil || *u.addr.Load() != addr {
		u.addr.Store(&addr)
	}
}

func (u *memberInUse) ofCall(
	ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, next grpc.UnaryInvoker,
	opts ...grpc.CallOption,
) error {
	var p peer.Peer
	err := next(ctx, method, req, reply, conn, append(opts, grpc.Peer(&p))...)
	u.note(&p)
	return err
}

func (u *memberInUse) ofStream(
	ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, next grpc.Streamer,
	opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := next(ctx, desc, conn, method, opts...)
	if err == nil {
		if p, ok := peer.FromContext(stream.Context()); ok {
			u.note(p)
		}
	}
	return stream, err
}

// among returns the member's index in endpoints, or 0 if it is not there.
func (u *memberInUse) among(endpoints []string) int {
	at := u.addr.Load()
	if at == nil {
		return 0
	}
	ip, port, _ := net.SplitHostPort(*at)
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	return max(0, slices.IndexFunc(endpoints, func(endpoint string) bool {
		_, addr, ok := strings.Cut(endpoint, "://")
		if !ok {
			addr = endpoint
		}
		if addr == *at {
			return true
		}
		host, p, _ := net.SplitHostPort(addr)
		if p != port || net.ParseIP(host) != nil {
			return false
		}
		ips, err := net.DefaultResolver.LookupHost(ctx, host)
		return err == nil && slices.Contains(ips, ip)
	}))
}

// moved counts the members that the client has left, for moveOn.
func (c *Client) moved() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.moves
}

// moveOn leaves the member in use, which does not answer as it should, for the next one, unless the client has moved on
// since moved returned the given count. A member that cannot be connected to is left by gRPC itself.
func (c *Client) moveOn(moved int) {
	c.mu.Lock()
	client, due := c.client, c.client != nil && !c.closed && c.moves == moved && len(c.cfg.Endpoints) > 1
	if due {
		c.moves++
	}
	c.mu.Unlock()
	if !due {
		return
	}
	c.moving.Lock()
	defer c.moving.Unlock()
	others := client.Endpoints()
	i := c.member.among(others)
	left := others[i]
	others = slices.Delete(others, i, i+1)
	// gRPC keeps its connection as long as the endpoint stays in the list.
	client.SetEndpoints(others...)
	client.SetEndpoints(append(others, left)...)
}
