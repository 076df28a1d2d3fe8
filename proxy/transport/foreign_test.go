package transport

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestRecognize(t *testing.T) {
	for _, tt := range []struct{ said, want string }{
		{"GET / HTTP/1.1\r\n", "HTTP/1.1"},
		{"GET /healthz HTTP/1.0\r\nHost: x\r\n\r\n", "HTTP/1.1"},
		{"PUT /x?a=b HTTP/1.1\n", "HTTP/1.1"},
		{"PRI * HTTP/1.1\r\n", "HTTP/1.1"},
		{"\r\n\r\nGET / HTTP/1.1\r\n", "HTTP/1.1"},
		{"\r\n", ""},
		{strings.Repeat("\r\n", maxRequestLine), "something else"},
		{"OPTIONS * HTTP/1.1\r\nUpgrade: h2c\r\n", "HTTP/1.1"},
		{"G", ""},
		{"GET / HTT", ""},
		{"GET /" + strings.Repeat("x", maxRequestLine), "something else"},
		{"GET /\r\n", "something else"},
		{"PRI * HTTP/2.0\r\n\r\nSN", "something else"},
		{"EHLO localhost\r\n", "something else"},
		{"SSH-2.0-OpenSSH\r\n", "something else"},
		{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"},
		{"\x16\x03", "TLS"},
		{"\x16", ""},
		{"\x16\x02", "something else"},
		{"\x00", "something else"},
		{"caf\xc3\xa9", "something else"},
		{"", ""},
	} {
		got := ""
		if f := Recognize([]byte(tt.said), "127.0.0.1:7071"); f != nil {
			got = f.Protocol
			if (f.Answer == nil) != (got == "something else") {
				t.Errorf("%.30q gets the answer %q", tt.said, f.Answer)
			}
		}
		if got != tt.want {
			t.Errorf("%.30q is %q, want %q", tt.said, got, tt.want)
		}
	}
}

func TestAnswerInHTTP1(t *testing.T) {
	for _, method := range []string{"GET", "HEAD"} {
		answer := Recognize([]byte(method+" / HTTP/1.1\r\n"), "127.0.0.1:7071").Answer
		req, _ := http.NewRequest(method, "http://x/", nil)
		r := bufio.NewReader(bytes.NewReader(answer))
		resp, err := http.ReadResponse(r, req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusUpgradeRequired || !resp.Close || r.Buffered() > 0 {
			t.Errorf("%s: %v %v, %d bytes behind it", method, resp, err, r.Buffered())
		}
		if says := string(body); method == "GET" && (!strings.Contains(says, "HTTP/2") || !strings.Contains(says, "http://127.0.0.1:7071")) {
			t.Errorf("the message is %q", says)
		}
	}
}

// A client takes the alert for one.
func TestAnswerInTLS(t *testing.T) {
	client, server := net.Pipe()
	go io.Copy(io.Discard, server) // ends with the handshake, as the other does
	go server.Write(tlsAlert)
	err := tls.Client(client, &tls.Config{ServerName: "x", MinVersion: tls.VersionTLS12}).Handshake()
	client.Close()
	if err == nil || !strings.Contains(err.Error(), "remote error: tls: protocol version not supported") {
		t.Errorf("the handshake fails with %v", err)
	}
}
