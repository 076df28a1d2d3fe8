// Package grpcengine is the reference engine: google.golang.org/grpc on both sides and
// github.com/mwitkow/grpc-proxy between them. It is the conservative choice, and the oracle that other engines
// are compared with.
//
// It decides how bytes move; which way a call goes is package proxy's. Of the library's known faults it mends
// these, by wrapping the streams the library sees: response headers go to the caller as soon as they arrive,
// messages pass as raw bytes of any size and any content-subtype, :authority is kept, and a caller's cancel,
// a deadline and a lost backend keep their own statuses.
//
// What grpc-go does not allow a proxy to keep:
//   - user-agent: the backend sees grpc-go's;
//   - message compression other than gzip: a call in another encoding gets UNIMPLEMENTED from grpc-go; gzip is
//     decompressed and compressed again, in either direction only if the sender used it;
//   - grpc-accept-encoding: the backend sees what this engine accepts;
//   - the order of metadata with different keys, and non-gRPC headers such as te;
//   - grpc-timeout to the last digit: the backend gets what is left of it;
//   - the status of a call whose deadline runs out inside the proxy: grpc-go resets the caller's stream at that
//     moment, and the caller has the status that it makes itself. It is counted all the same.
package grpcengine

import (
	"context"
	"math"
	"net"
	"sync"
	"time"

	grpcproxy "github.com/mwitkow/grpc-proxy/proxy"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/lbproxy/lbproxy/internal/logsample"
	"github.com/lbproxy/lbproxy/proxy"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

const (
	// maxHeaderListSize is more than any gRPC library sends: refusing is the backend's business.
	maxHeaderListSize = 16 << 20
	// minPingInterval is how often callers may ping; pinging more often they are told to go away.
	minPingInterval = time.Second
	// flushTimeout is how long callers have to read the statuses of calls that a shutdown failed.
	flushTimeout = time.Second
)

var _ proxy.Engine = (*Engine)(nil)

// Engine implements [proxy.Engine].
type Engine struct {
	router      *proxy.Router
	dialer      *transport.Dialer
	descriptors *transport.Descriptors
	admin       string
	log         *zap.Logger

	// forced is done when running calls must end; its cause is their status.
	forced context.Context
	force  context.CancelCauseFunc

	mu      sync.Mutex // protects:
	servers []*grpc.Server
	down    bool
}

// New returns an engine that serves nothing yet. Admin is where health checks are answered, for those that ask at the
// port of calls.
func New(r *proxy.Router, dialer *transport.Dialer, d *transport.Descriptors, admin string, log *zap.Logger) *Engine {
	e := &Engine{
		router: r, dialer: dialer, descriptors: d, admin: admin,
		log: log.WithOptions(logsample.First(5, time.Second)), // callers can make much of it happen without end
	}
	e.forced, e.force = context.WithCancelCause(context.Background())
	return e
}

// Serve implements [proxy.Engine].
func (e *Engine) Serve(l proxy.Listener) error {
	at := &listener{engine: e, address: l.Addr().String(), service: l.Service}
	s := grpc.NewServer(
		grpc.ForceServerCodecV2(rawCodec{}),
		grpc.StreamInterceptor(at.relay),
		grpc.UnknownServiceHandler(grpcproxy.TransparentHandler(direct)),
		grpc.StatsHandler(requestEncoding{}),
		grpc.MaxRecvMsgSize(math.MaxInt),
		grpc.MaxSendMsgSize(math.MaxInt),
		grpc.MaxHeaderListSize(maxHeaderListSize),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
		// Whoever is gone without a word is found by the kernel, see [transport.FindDead], not by grpc-go's pings, beside
		// which it would set the socket's timeout its own way.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: math.MaxInt64}),
	)
	if !e.add(s) {
		l.Close()
		return nil
	}
	return s.Serve(callers{l.Listener, e})
}

// callers accepts connections.
type callers struct {
	net.Listener
	engine *Engine
}

func (l callers) Accept() (net.Conn, error) {
	c, err := l.engine.descriptors.Accept(l.Listener)
	if err != nil {
		return nil, err
	}
	g := &greeting{Conn: c, admin: l.engine.admin, listener: l.Addr().String(), log: l.engine.log}
	return &counted{Conn: g, gone: l.engine.descriptors.CallerGone}, nil
}

// counted is a connection that has a descriptor.
type counted struct {
	net.Conn
	once sync.Once
	gone func()
}

func (c *counted) Close() error {
	defer c.once.Do(c.gone) // after the socket has been closed
	return c.Conn.Close()
}

func (e *Engine) add(s *grpc.Server) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.down {
		e.servers = append(e.servers, s)
	}
	return !e.down
}

// Shutdown implements [proxy.Engine].
func (e *Engine) Shutdown(ctx context.Context) {
	e.mu.Lock()
	e.down = true
	servers := e.servers
	e.mu.Unlock()

	var stopping sync.WaitGroup
	for _, s := range servers {
		stopping.Go(s.GracefulStop)
	}
	stopped := make(chan struct{})
	go func() { // ends when the servers have stopped, which is waited for below
		stopping.Wait()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-ctx.Done():
		e.force(proxy.ErrDraining())
		select {
		case <-stopped:
		case <-time.After(flushTimeout):
			for _, s := range servers {
				s.Stop()
			}
			<-stopped
		}
	}
	e.force(proxy.ErrDraining())
}
