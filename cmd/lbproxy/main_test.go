package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

// asLbproxy in the environment turns the test binary into lbproxy.
const asLbproxy = "LBPROXY_TEST_AS_LBPROXY"

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == testServerArg:
		testServer(os.Args[2:])
	case os.Getenv(asLbproxy) != "":
		main()
	}
	etcdtest.Main(m)
}

func TestUsage(t *testing.T) {
	register := func(more string) string { return "register --name hello --addr 127.0.0.1:1001 " + more }
	for _, test := range []struct {
		args string
		code int
		want string // in what is said
	}{
		{"", 0, "Available Commands:"},
		{"--help", 0, "Available Commands:"},
		{"nonsense", 2, `unknown command "nonsense"`},
		{"--nonsense", 2, "unknown flag: --nonsense"},
		{"version --help", 0, "lbproxy version -o json"},
		{"version now", 2, `unknown command "now"`},
		{"version -o xml", 2, `output "xml" is unknown; use text or json`},
		{"register --help", 0, "lbproxy register --name hello --addr 10.0.0.7:1001"},
		{"register", 2, `required flag(s) "addr", "name" not set`},
		{"register --name hello --addr 127.0.0.1", 2, `address "127.0.0.1" is not host:port`},
		{"register --name a/b --addr 127.0.0.1:1001", 2, `service name "a/b" holds '/'`},
		{register("--weight ten"), 2, `--weight: want a whole number, such as 10, got the text "ten"`},
		{register("--weight 10.5"), 2, `--weight: want a whole number, such as 10, got the text "10.5"`},
		{register("--weight 1e400"), 2, "--weight: weight 1e400 is out of range; use 0 (drained) to 65535"},
		{register("--ttl ten"), 2, `--ttl: want a duration with its unit, such as 500ms, 5s or 10m, got the text "ten"`},
		{"serve --drain-timeout 5", 2, `--drain-timeout: want a duration with its unit, such as 500ms, 5s or 10m, got the text "5"`},
		{"register --name hello --addr 0.0.0.0:1001", 2, "use an address at which other machines reach this one, such as 10.0.0.7"},
		{"register --name hello --addr :1001", 2, "the host is missing; use one at which other machines reach this one"},
		{register("--weight 65536"), 2, "weight 65536 is out of range; use 0 (drained) to 65535"},
		{register("--ttl 1s"), 2, "ttl 1s cannot be had; use whole seconds, at least 2s"},
		{register("--ttl 0"), 2, "--ttl, --start-timeout and --drain-wait"},
		{register("--drain-wait -1s"), 2, "--ttl, --start-timeout and --drain-wait"},
		{register("--root fleet"), 2, `use "/fleet"`},
		{register("--etcd="), 2, "no endpoints"},
		{register("--username lbproxy"), 2, "missing [password-file]"},
		{register("--cert c.pem"), 2, "missing [key]"},
		{register("--ca /does/not/exist"), 2, "/does/not/exist"},
		{register("sleep 1"), 2, `argument "sleep" stands before --`},
		{register("sleep -- 1"), 2, `argument "sleep" stands before --`},
		{register("--"), 2, "no command stands after --"},
		{register("--weight-address 127.0.0.1"), 1, "--weight-address: listen"},
		{register("-- /does/not/exist"), 127, "/does/not/exist"},
		{register("-- /"), 126, "is a directory"},
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

func TestVersion(t *testing.T) {
	version = "v1.2.3"
	defer func() { version = "" }()
	var text, asJSON bytes.Buffer
	if code := run(context.Background(), []string{"version"}, &text, &text); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if want := "lbproxy v1.2.3 (go1."; !strings.HasPrefix(text.String(), want) {
		t.Errorf("got %q, want it to begin with %q", &text, want)
	}
	if code := run(context.Background(), []string{"version", "-o", "json"}, &asJSON, &text); code != 0 {
		t.Errorf("exit code %d", code)
	}
	var got build
	if err := json.Unmarshal(asJSON.Bytes(), &got); err != nil || got != thisBuild() {
		t.Errorf("got %s (error %v), want the JSON of %+v", &asJSON, err, thisBuild())
	}
}
