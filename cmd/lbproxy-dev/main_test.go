package main

import (
	"bytes"
	"context"
	"net"
	"regexp"
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
		{"--listen unix:/tmp/lbproxy.sock", 2, `--listen: "unix:/tmp/lbproxy.sock" is not host:port; write it like 127.0.0.1:0`},
		{"--listen 7070", 2, `--listen: "7070" is not host:port`},
		{"--etcd 127.0.0.1:etcd", 2, `--etcd: "127.0.0.1:etcd" is not host:port`},
		{"--servers 127.0.0.1:70810", 2, `--servers: "127.0.0.1:70810" is not host:port`},
		{"--admin 127.0.0.1:7070", 2, "--admin: 127.0.0.1:7070 is taken by --listen already; choose another"},
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
	for _, flag := range []string{"listen", "admin", "etcd", "weight-address", "servers"} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), anywhere("--"+flag, taken), &stdout, &stderr)
		want := regexp.MustCompile("lbproxy-dev: --" + flag + ": " + taken + " is taken by .*; stop that, or choose another address, " +
			"such as 127.0.0.1:0 for any that is free\n$")
		if code != 1 || !want.Match(stderr.Bytes()) {
			t.Errorf("--%s: exit code %d, %q and\n%swant 1 with %s", flag, code, &stdout, &stderr, want)
		}
	}
}

// anywhere is flags for a playground at any free ports, with more flags appended.
func anywhere(more ...string) []string {
	flags := []string{}
	for _, flag := range []string{"--listen", "--admin", "--etcd", "--weight-address", "--servers"} {
		flags = append(flags, flag, anyFree)
	}
	return append(flags, more...)
}

func TestStoppedWhileItStarts(t *testing.T) {
	for _, test := range []struct {
		mode string
		code int
		want string
	}{
		{"--once=false", 0, "Starting etcd ...\nStarting 5 servers of the service \"hello\", and registering them ...\n"},
		{"--once", 1, "lbproxy-dev: context canceled\n"}, // nothing was found out
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var out bytes.Buffer
		code := run(ctx, anywhere(test.mode), &out, &out)
		if code != test.code || out.String() != test.want {
			t.Errorf("%s: exit code %d and %q, want %d and %q", test.mode, code, &out, test.code, test.want)
		}
	}
}
