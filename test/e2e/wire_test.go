package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/metadata"
)

// What gRPC libraries hide from their users stays the same, too: here the caller is a mere HTTP client.
func TestProxyCannotBeSeenOnTheWire(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		s := newStage(t, w)
		for _, e := range exchanges {
			t.Run(e.name, func(t *testing.T) {
				s.set(e.backend)
				var answers [2]answer
				for i, addr := range []string{s.proxy.Addrs()[0], s.backend.addr} {
					var err error
					if answers[i], err = post(within(t), addr, "/e2e.Exchange/Perform", e.sends, []byte("question")); err != nil {
						t.Fatal(err)
					}
					<-s.backends
				}
				if diff := cmp.Diff(answers[0], answers[1]); diff != "" {
					t.Errorf("(-through the proxy +without):\n%s", diff)
				}
			})
		}
	})
}

// answer is a response to a call as HTTP sees it. Of one that is Trailers-Only, Trailer is empty.
type answer struct {
	Status          int
	Header, Trailer http.Header
	Body            string // as shown
}

// h2c speaks HTTP/2 without TLS to addr, whatever host is asked for.
func h2c(addr string) *http.Transport {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{
		Protocols: &protocols,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}
}

// post makes a call of one message to "hello" at addr.
func post(ctx context.Context, addr, method string, md metadata.MD, message []byte) (answer, error) {
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://hello"+method, bytes.NewReader(frame))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("content-type", "application/grpc")
	req.Header.Set("te", "trailers")
	req.Header.Set("grpc-accept-encoding", "gzip")
	for key, values := range md {
		for _, v := range values {
			if strings.HasSuffix(key, "-bin") {
				v = base64.RawStdEncoding.EncodeToString([]byte(v))
			}
			req.Header.Add(key, v)
		}
	}
	transport := h2c(addr)
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, resp.Trailer, shown(body)}, err
}
