package etcd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

const (
	reconnectFirst = 100 * time.Millisecond
	reconnectMax   = 2 * time.Second

	// One connection to one member carries all that the process asks for. Etcd's client would connect to each of them.
	oneMember = `{"loadBalancingConfig": [{"pick_first": {}}]}`
)

// connectionOptions are how etcd is connected to. Timeout bounds each attempt.
func connectionOptions(timeout time.Duration, member *memberInUse) []grpc.DialOption {
	return []grpc.DialOption{
		// By default gRPC's waits between attempts to connect grow to two minutes: etcd's return would go unnoticed
		// for that long.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: reconnectFirst, MaxDelay: reconnectMax, Multiplier: 2, Jitter: 0.2,
			},
			MinConnectTimeout: timeout * 4 / 5, // shorter than a request, which then learns why there is no connection
		}),
		grpc.WithDisableServiceConfig(), // that of etcd's client
		grpc.WithDefaultServiceConfig(oneMember),
		grpc.WithChainUnaryInterceptor(member.ofCall, explainCall),
		grpc.WithChainStreamInterceptor(member.ofStream, reportEnd),
	}
}

// shuffled spreads the processes of a fleet over the members.
func shuffled(endpoints []string) []string {
	endpoints = slices.Clone(endpoints)
	rand.Shuffle(len(endpoints), func(i, j int) { endpoints[i], endpoints[j] = endpoints[j], endpoints[i] })
	return endpoints
}

// noConnectionError says why a request could not even be sent.
type noConnectionError struct{ cause string }

func (e *noConnectionError) Error() string { return "no connection: " + e.cause }

type atOnceKey struct{}

// atOnce makes requests fail at once, with the reason as far as it is known, when there is no connection. Without it
// they wait for one until their time is up.
func atOnce(ctx context.Context) context.Context { return context.WithValue(ctx, atOnceKey{}, true) }

// explainCall puts in why there is no connection, where the client would only say that time was up.
func explainCall(
	ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, next grpc.UnaryInvoker,
	opts ...grpc.CallOption,
) error {
	hasty := ctx.Value(atOnceKey{}) != nil
	if hasty {
		opts = append(opts, grpc.WaitForReady(false))
	}
	err := next(ctx, method, req, reply, conn, opts...)
	if err == nil || conn.GetState() == connectivity.Ready {
		return err
	}
	if code := status.Code(err); code != codes.DeadlineExceeded && (code != codes.Unavailable || !hasty) {
		return err
	}
	// Not a status: the client would try again, or replace it by the context's error.
	return &noConnectionError{explanation(status.Convert(err).Message())}
}

// Explain says why there is no connection, where that is what err comes from.
func Explain(client *clientv3.Client, err error) error {
	if client.ActiveConnection().GetState() == connectivity.Ready {
		return err
	}
	return &noConnectionError{explanation(status.Convert(err).Message())}
}

// explanation is gRPC's message without its usual openings, and with what it means where the other end is not etcd.
func explanation(said string) string {
	for _, opening := range []string{
		"latest balancer error: ", `last connection error: `, `connection error: desc = "`, "transport: ", "Error while dialing: ",
	} {
		said = strings.TrimPrefix(said, opening)
	}
	said = strings.TrimSuffix(said, `"`)
	switch {
	case strings.Contains(said, "looked like an HTTP/1.1 header"):
		return "what answers there is not etcd, it speaks HTTP/1.1: " + said
	case strings.Contains(said, "server preface"), strings.HasPrefix(said, "write tcp"), strings.HasPrefix(said, "read tcp"):
		return "what answers there does not greet as etcd does: it is not etcd, or one that wants TLS: " + said
	case strings.Contains(said, "does not look like a TLS handshake"):
		return "what answers there speaks no TLS: " + said
	}
	return said
}

// awaitConnection returns when there is a connection, or after timeout.
func (c *Client) awaitConnection(ctx context.Context, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c.mu.Lock()
	client := c.client
	c.mu.Unlock()
	if client == nil { // it could not log in
		<-ctx.Done()
		return
	}
	conn := client.ActiveConnection()
	for s := conn.GetState(); s != connectivity.Ready && conn.WaitForStateChange(ctx, s); s = conn.GetState() {
	}
}

// wrongServer adds to err that the server is not etcd, where that is what it means.
func wrongServer(err error) error {
	if code := status.Code(err); code == codes.Unimplemented || code == codes.Unknown && strings.Contains(err.Error(), "content-type") {
		return fmt.Errorf("what answers there is not etcd: %w", err)
	}
	return err
}
