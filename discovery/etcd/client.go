package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc"

	"github.com/lbproxy/lbproxy/internal/logsample"
)

// Config says how to reach etcd and where in it the keys stand.
type Config struct {
	Endpoints    []string      // host:port or URLs; one is enough, all members are better
	Root         string        // what all keys begin with; empty or "/like/this"
	DialTimeout  time.Duration // bounds each attempt to log in, and each request; default 5 s
	Username     string
	PasswordFile string // holds the password; a trailing newline is cut off
	TLS          *TLSConfig
}

const (
	defaultDialTimeout = 5 * time.Second
	// grpc-go pings no more often than every 10 s; etcd allows every 5 s.
	etcdKeepAliveTime    = 10 * time.Second
	etcdKeepAliveTimeout = 3 * time.Second
)

// A Client is the process's one client of etcd. Making one does not need etcd to be there: it connects, and logs in
// where there is a user, when it is first used, and tries again until that succeeds.
type Client struct {
	// Immutable:
	cfg  clientv3.Config
	root string // without a slash at its end
	ctx  context.Context
	end  context.CancelFunc

	member *memberInUse
	login  singleflight.Group

	moving sync.Mutex // held while the client is made to leave a member

	mu     sync.Mutex // protects:
	client *clientv3.Client
	closed bool
	moves  int // how often it has left an etcd member for another
}

// NewClient reads the files that cfg names and fails if it cannot use them.
func NewClient(cfg Config, log *zap.Logger) (*Client, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("etcd: no endpoints; name at least one, such as 127.0.0.1:2379")
	}
	root := strings.TrimRight(cfg.Root, "/")
	if root != "" && root[0] != '/' {
		return nil, fmt.Errorf("etcd: root %q does not begin with a slash; use %q", cfg.Root, "/"+root)
	}
	c := clientv3.Config{
		Endpoints:            slices.Clone(cfg.Endpoints),
		DialTimeout:          cfg.DialTimeout,
		DialKeepAliveTime:    etcdKeepAliveTime,
		DialKeepAliveTimeout: etcdKeepAliveTimeout,
		Logger:               quiet(log.Named("etcd")),
		Username:             cfg.Username,
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = defaultDialTimeout
	}
	member := &memberInUse{}
	c.DialOptions = connectionOptions(c.DialTimeout, member)
	if cfg.Username != "" {
		password, err := readPassword(cfg.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("etcd: password of user %q: %w", cfg.Username, err)
		}
		c.Password = password
		c.DialOptions = append(c.DialOptions, grpc.WithChainUnaryInterceptor(logInFrom(cfg.PasswordFile)))
	}
	if cfg.TLS != nil {
		credentials, err := cfg.TLS.credentials()
		if err != nil {
			return nil, fmt.Errorf("etcd: tls: %w", err)
		}
		c.DialOptions = append(c.DialOptions, grpc.WithTransportCredentials(credentials))
		if name := cfg.TLS.ServerName; name != "" {
			// The client has the endpoints' own host names verified unless gRPC is told, too.
			c.DialOptions = append(c.DialOptions, grpc.WithAuthority(name))
		}
	}
	ctx, end := context.WithCancel(context.Background())
	c.Context = atOnce(ctx) // for the log-in: whoever needs it tries again
	return &Client{cfg: c, root: root, ctx: ctx, end: end, member: member}, nil
}

// quiet keeps the client from logging each of its retries, of which there are several a second. What comes of them is
// ours to log.
func quiet(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.IncreaseLevel(zapcore.ErrorLevel), logsample.First(1, time.Minute))
}

// Endpoints are the addresses of etcd, for messages.
func (c *Client) Endpoints() string { return strings.Join(c.cfg.Endpoints, ",") }

// Root is what all keys begin with: empty, or like "/this". A user may be allowed to read below it and nowhere else.
func (c *Client) Root() string { return c.root }

// RequestTimeout bounds one request, as configured.
func (c *Client) RequestTimeout() time.Duration { return c.cfg.DialTimeout }

// Do calls f with etcd's client, which connects as needed. If f's error says that the member does not work, it is left
// for another before Do returns.
func (c *Client) Do(ctx context.Context, f func(*clientv3.Client) error) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	moves := c.moved()
	err = f(client)
	if unanswered(err) {
		c.moveOn(moves)
	}
	return err
}

// connect returns the client. With a user it must log in first, which takes an etcd that answers: callers share
// one attempt and get its error.
func (c *Client) connect(ctx context.Context) (*clientv3.Client, error) {
	c.mu.Lock()
	client, closed := c.client, c.closed
	c.mu.Unlock()
	if client != nil {
		return client, nil
	}
	if closed {
		return nil, errors.New("etcd: client is closed")
	}
	made := c.login.DoChan("", func() (any, error) { return c.dial() })
	select {
	case r := <-made:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*clientv3.Client), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (c *Client) dial() (*clientv3.Client, error) {
	c.mu.Lock()
	client := c.client
	c.mu.Unlock()
	if client != nil { // made by an attempt that ended between our caller's look and this one
		return client, nil
	}
	cfg := c.cfg
	cfg.Endpoints = shuffled(cfg.Endpoints) // at each attempt, because the log-in has only the first that connects
	client, err := clientv3.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("etcd %s: %w", c.Endpoints(), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		client.Close()
		return nil, errors.New("etcd: client is closed")
	}
	c.client = client
	return client, nil
}

// Close ends the connection and every request on it.
func (c *Client) Close() error {
	c.end()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	if c.client == nil {
		return nil
	}
	err := c.client.Close()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
