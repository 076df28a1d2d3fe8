package main

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

func TestUsage(t *testing.T) {
	for _, test := range []struct {
		args string
		code int
		want string // in what is said
	}{
		{"--help", 0, "lbproxy-dev --weights 1,2,3 --policy least_request"},
		{"now", 2, `unknown command "now"`},
		{"--nonsense", 2, "unknown flag: --nonsense"},
		{"--policy rr", 2, `--policy: policy "rr" is unknown; use one of weighted_round_robin`},
		{"--weights 1,ten", 2, `--weights: want a whole number, such as 10, got the text "1,ten"`},
		{"--weights 1,65536", 2, "--weights: weight 65536 is out of range; use 0 (drained) to 65535"},
		{"--weights=", 2, `--weights: want a whole number, such as 10, got the text ""`},
		{"--weights " + strings.Repeat("1,", 100) + "1", 2, "--weights: 101 servers cannot be had; name 1 to 100"},
		{"--backends 0", 2, "--backends: 0 servers cannot be had; use 1 to 100"},
		{"--backends 101", 2, "--backends: 101 servers cannot be had; use 1 to 100"},
		{"--backends 2 --weights 1,2", 2, "[backends weights] were all set"},
		{"--rate -1", 2, "--rate: -1 calls per second cannot be had; use 0 to 10000"},
		{"--rate 5 --once", 2, "[once rate] were all set"},
		{"--once -o xml", 2, `--output: "xml" is unknown; use table or json`},
		{"-o json", 2, "--output json goes with --once only"},
		{"--listen unix:/tmp/lbproxy.sock", 2, "--listen: sockets are not for playing; use host:port"},
		{"--listen 7070", 2, `"7070" is not host:port`},
		{"--admin 127.0.0.1:7070", 2, "is taken by listeners[0].address already"},
		{"--rate -1 --policy rr", 2, "--rate: -1"}, // all that is wrong is named
		{"--rate -1 --policy rr", 2, "--policy: "},
	} {
		t.Run(test.args, func(t *testing.T) {
			var out bytes.Buffer
			code := run(t.Context(), strings.Fields(test.args), &out, &out)
			if code != test.code || !strings.Contains(out.String(), test.want) {
				t.Errorf("exit code %d and\n%swant %d with %q", code, &out, test.code, test.want)
			}
			if hint := strings.Contains(out.String(), "--help' for usage"); hint != (test.code == 2) {
				t.Errorf("hint at the help: %v, with exit code %d", hint, test.code)
			}
		})
	}
}

func TestATakenAddressIsNamedWithItsCure(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	for _, flags := range [][]string{
		{"--listen", taken, "--admin", "127.0.0.1:0"},
		{"--listen", "127.0.0.1:0", "--admin", taken},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), flags, &stdout, &stderr)
		want := "another process listens at " + taken + ", maybe an lbproxy; stop it, or choose other addresses, such as --listen"
		if code != 1 || stdout.Len() > 0 || !strings.Contains(stderr.String(), want) {
			t.Errorf("%v: exit code %d, %q and\n%swant 1 with %q", flags, code, &stdout, &stderr, want)
		}
	}
}

func TestStoppedWhileItStarts(t *testing.T) {
	for _, test := range []struct {
		mode string
		code int
		want string
	}{
		{"--once=false", 0, ""},
		{"--once", 1, "lbproxy-dev: context canceled\n"}, // nothing was found out
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var out bytes.Buffer
		code := run(ctx, []string{test.mode, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, &out, &out)
		if code != test.code || out.String() != test.want {
			t.Errorf("%s: exit code %d and %q, want %d and %q", test.mode, code, &out, test.code, test.want)
		}
	}
}
