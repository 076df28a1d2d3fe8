package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lbproxy/lbproxy/configs"
)

// A client that speaks another protocol at the port for calls is told so in that protocol, and the log says who it was.
func TestForeignCallers(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		w.startInstance("hello", "", 1)
		for _, network := range []string{"tcp", "unix"} {
			t.Run(network, func(t *testing.T) {
				addr := newAddr(t)
				listens := addr
				if network == "unix" {
					addr = filepath.Join(t.TempDir(), "calls.sock")
					listens = "unix:" + addr
				}
				w := *w
				w.t = t
				p := w.startProxy(listenAt(listens))
				dial := func(t *testing.T) (c net.Conn, name string) {
					c, err := net.Dial(network, addr)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { c.Close() })
					c.SetDeadline(time.Now().Add(patience))
					if network == "unix" {
						return c, fmt.Sprintf("process %d of user %d", os.Getpid(), os.Getuid())
					}
					return c, c.LocalAddr().String()
				}
				for _, request := range []string{
					"GET / HTTP/1.1\r\nHost: hello\r\n\r\n",
					"HEAD /healthz HTTP/1.1\r\nHost: hello\r\n\r\n",
					"POST /helloworld.Greeter/SayHello HTTP/1.1\r\nHost: hello\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100_000),
					"GET / HTTP/1.1\r\nHost: hello\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
				} {
					t.Run(fmt.Sprintf("%.8s %d", request, len(request)), func(t *testing.T) {
						c, name := dial(t)
						go io.WriteString(c, request) // ends with the connection
						r := bufio.NewReader(c)
						asked, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request)))
						if err != nil {
							t.Fatal(err)
						}
						resp, err := http.ReadResponse(r, asked)
						if err != nil {
							t.Fatal(err)
						}
						body, err := io.ReadAll(resp.Body)
						if err != nil || resp.StatusCode != http.StatusUpgradeRequired || !resp.Close {
							t.Errorf("%v, %v", resp, err)
						}
						if asked.Method != http.MethodHead && !strings.Contains(string(body), "http://"+p.AdminAddr()) {
							t.Errorf("the message is %q", body)
						}
						if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
							t.Errorf("%q and %v come behind the response", rest, err)
						}
						p.mustLogForeigner(t, name, "HTTP/1.1")
					})
				}
				t.Run("TLS", func(t *testing.T) {
					c, name := dial(t)
					err := tls.Client(c, &tls.Config{ServerName: "hello", NextProtos: []string{"h2"}}).HandshakeContext(within(t))
					if err == nil || !strings.Contains(err.Error(), "remote error: tls: ") {
						t.Errorf("the handshake fails with %v", err)
					}
					p.mustLogForeigner(t, name, "TLS")
				})
				if n := p.metrics()[`lbproxy_connections_ended_total{cause="not_http2",peer="caller"}`]; n != 5 && w.engine.name == configs.EngineRelay {
					t.Errorf("%v connections are counted", n)
				}
				greetAt(t, listens)
			})
		}
	})
}

// greetAt makes a call of "hello" at a proxy's address.
func greetAt(t *testing.T, addr string) {
	t.Helper()
	if _, err := sayHello(within(t), dial(t, addr)); err != nil {
		t.Error(err)
	}
}

func (p *lbproxy) mustLogForeigner(t *testing.T, name, protocol string) {
	t.Helper()
	await(t, fmt.Sprintf("a log line on %s that speaks %s", name, protocol), func() bool {
		for _, e := range p.logs.FilterMessageSnippet("a caller is turned away: it speaks " + protocol).All() {
			if at := fmt.Sprint(e.ContextMap()["address"]); at == name {
				return true
			}
		}
		return false
	})
}

// The health check of somebody who has read the message finds what it looks for.
func TestWhereTheMessageLeads(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		p := w.startProxy()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Addrs()[0]+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := new(http.Transport).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		_, url, _ := strings.Cut(string(body), "http://")
		url, _, _ = strings.Cut(url, " ")
		if code, says := get(t, "http://"+url+"/healthz"); code != http.StatusOK {
			t.Errorf("%s/healthz = %d %s", url, code, says)
		}
	})
}
