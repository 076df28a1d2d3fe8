package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Credentials are rotated while processes run: the files are read for each handshake and each log-in. Files that are
// being rewritten and do not fit together are read again at the next attempt.

// TLSConfig names the files for TLS towards a server. Cert and Key go together and are optional.
type TLSConfig struct {
	CA         string
	Cert       string
	Key        string
	ServerName string
}

func (t *TLSConfig) load() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", t.CA)
		}
	}
	if t.Cert != "" || t.Key != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate %s with key %s: %w", t.Cert, t.Key, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// credentials returns TLS that reads the files for each handshake. It fails if they cannot be used now.
func (t *TLSConfig) credentials() (credentials.TransportCredentials, error) {
	cfg, err := t.load()
	if err != nil {
		return nil, err
	}
	return &tlsFromFiles{credentials.NewTLS(cfg), *t}, nil
}

type tlsFromFiles struct {
	credentials.TransportCredentials // of the files as they were at first
	files                            TLSConfig
}

func (t *tlsFromFiles) ClientHandshake(
	ctx context.Context, authority string, conn net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	cfg, err := t.files.load()
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(cfg).ClientHandshake(ctx, authority, conn)
}

func (t *tlsFromFiles) Clone() credentials.TransportCredentials {
	return &tlsFromFiles{t.TransportCredentials.Clone(), t.files}
}

func readPassword(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	password := strings.TrimRight(string(content), "\r\n")
	if password == "" {
		return "", fmt.Errorf("file %s is empty", file)
	}
	return password, nil
}

// logInFrom is how etcd's client logs in, again whenever its token is refused, with the password that the file holds
// then.
func logInFrom(file string) grpc.UnaryClientInterceptor {
	return func(
		ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, next grpc.UnaryInvoker,
		opts ...grpc.CallOption,
	) error {
		if logIn, ok := req.(*pb.AuthenticateRequest); ok {
			password, err := readPassword(file)
			if err != nil {
				return fmt.Errorf("password of user %q: %w", logIn.Name, err)
			}
			req = &pb.AuthenticateRequest{Name: logIn.Name, Password: password}
		}
		return next(ctx, method, req, reply, conn, opts...)
	}
}
