package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy"
)

// serving is an lbproxy with a configuration file, serving the instances of a services file.
type serving struct {
	*subprocess
	config, instances string // files
	calls, admin      string // addresses
}

// startServing runs lbproxy with a health server as the one instance of the service hello.
func startServing(t *testing.T, more string, flags ...string) *serving {
	t.Helper()
	dir := t.TempDir()
	s := &serving{config: filepath.Join(dir, "lbproxy.yaml"), instances: filepath.Join(dir, "instances.yaml")}
	write(t, s.instances, fmt.Sprintf("services: {hello: [{addr: %q}]}\n", startHealth(t)))
	s.configure(t, more)
	s.subprocess = start(t, append([]string{"serve", "--config", s.config}, flags...)...)
	s.awaitLog(`"msg":"ready"`)
	s.calls = s.logged(`"listening for calls","address":"([^"]+)"`)
	s.admin = s.logged(`"listening for admin","address":"([^"]+)"`)
	return s
}

func (s *serving) configure(t *testing.T, more string) {
	t.Helper()
	write(t, s.config, fmt.Sprintf(`
listeners: [{address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
discovery: {file: {path: %q}}
%s
`, s.instances, more))
}

func (s *serving) logged(pattern string) string {
	s.t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(s.stderr.String())
	if found == nil {
		s.t.Fatalf("no %s in the log", pattern)
	}
	return found[1]
}

// check calls the service hello.
func (s *serving) check(t *testing.T) error {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+s.calls, grpc.WithAuthority("hello"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	_, err = healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{})
	return err
}

// metric is the value of a series without labels.
func (s *serving) metric(t *testing.T, name string) float64 {
	t.Helper()
	page, err := getAdmin(t.Context(), s.admin, "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^` + name + ` (.+)$`).FindSubmatch(page)
	if found == nil {
		t.Fatalf("there is no series %s", name)
	}
	value, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func startHealth(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	ended := make(chan struct{})
	go func() { // ends by Stop
		defer close(ended)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() { s.Stop(); <-ended })
	return l.Addr().String()
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// lbproxy runs a command that ends on its own.
func lbproxy(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), args, &out, &err)
	return code, out.String(), err.String()
}

func TestServeCallsAndShow(t *testing.T) {
	s := startServing(t, "")
	for range 3 {
		if err := s.check(t); err != nil {
			t.Fatal(err)
		}
	}
	code, stdout, stderr := lbproxy(t, "services", "--admin", s.admin)
	want := regexp.MustCompile(`^SERVICE +POLICY +INSTANCES +READY +IN FLIGHT +CALLS +CALLS/S +ERRORS +P99 +REVISION +REGISTRY +WATCHED
hello +weighted_round_robin +1 +1 +0 +3 +[\d.]+ +0\.0% +[\d.]+[mµ]?s +1 +\d+s ago +on demand
$`)
	if code != 0 || !want.MatchString(stdout) {
		t.Errorf("services: exit code %d, %s%s", code, stdout, stderr)
	}
	code, stdout, stderr = lbproxy(t, "services", "hello", "--admin", s.admin)
	want = regexp.MustCompile(`^ADDRESS +VERSION +WEIGHT +STATE +FOR +IN FLIGHT +CALLS +CALLS/S +ERRORS +P99 +LAST ERROR
127\.0\.0\.1:\d+ +- +1 +ready +\d+s +0 +3 +[\d.]+ +0\.0% +[\d.]+[mµ]?s +-
The registry confirmed this \d+s ago, revision 1\.
$`)
	if code != 0 || !want.MatchString(stdout) {
		t.Errorf("services hello: exit code %d, %s%s", code, stdout, stderr)
	}
	code, stdout, _ = lbproxy(t, "services", "hello", "-o", "json", "--admin", s.admin)
	var got proxy.ServiceStatus
	if err := json.Unmarshal([]byte(stdout), &got); code != 0 || err != nil || len(got.Instances) != 1 || got.Calls != 3 {
		t.Errorf("services hello -o json: exit code %d, error %v, %+v", code, err, got)
	}
	code, _, stderr = lbproxy(t, "services", "nobody", "--admin", s.admin)
	if code != 1 || !strings.Contains(stderr, `service "nobody" is not watched`) {
		t.Errorf("services nobody: exit code %d, %s", code, stderr)
	}
	s.send(syscall.SIGTERM)
	s.awaitExit(0)
	code, _, stderr = lbproxy(t, "services", "--admin", s.admin)
	if code != 1 || !strings.Contains(stderr, "no proxy answers at "+s.admin) {
		t.Errorf("services without a proxy: exit code %d, %s", code, stderr)
	}
}

func TestServeReloads(t *testing.T) {
	s := startServing(t, "services: {hello: {policy: random}}")
	policy := func() string {
		_, stdout, _ := lbproxy(t, "services", "hello", "-o", "json", "--admin", s.admin)
		var got proxy.ServiceStatus
		_ = json.Unmarshal([]byte(stdout), &got) // or there is no policy yet
		return got.Policy
	}
	if got := policy(); got != picker.Random {
		t.Fatalf("policy %q", got)
	}
	state := func() string {
		return fmt.Sprint(s.metric(t, "lbproxy_config_last_reload_successful"), s.metric(t, "lbproxy_config_keys_waiting_for_restart"))
	}
	if got := state(); got != "1 0" {
		t.Errorf("last reload successful, keys waiting for a restart: %s, want 1 0", got)
	}
	s.configure(t, "services: {hello: {policy: round_robin}}")
	etcdtest.Eventually(t, "the changed file takes effect", func() bool { return policy() == picker.RoundRobin })

	s.configure(t, "services: {hello: {policy: rr}}")
	s.awaitLog(`policy \"rr\" is unknown`)
	if err := s.check(t); err != nil || policy() != picker.RoundRobin {
		t.Errorf("after a bad file: %v, policy %q, want round_robin still", err, policy())
	}
	etcdtest.Eventually(t, "the metrics say that the file is refused", func() bool { return state() == "0 0" })

	s.configure(t, "services: {hello: {policy: least_request}}\ndrain_timeout: 1s")
	s.send(syscall.SIGHUP)
	etcdtest.Eventually(t, "the file takes effect at SIGHUP", func() bool { return policy() == picker.LeastRequest })
	s.awaitLog(`effect after a restart only","keys":["drain_timeout"]`)
	etcdtest.Eventually(t, "the metrics say that a key waits for a restart", func() bool { return state() == "1 1" })

	if err := os.Remove(s.config); err != nil {
		t.Fatal(err)
	}
	etcdtest.Eventually(t, "the metrics say that the file is gone", func() bool { return state() == "0 1" })
	s.configure(t, "services: {hello: {policy: least_request}}")
	etcdtest.Eventually(t, "the metrics say that all is well again", func() bool { return state() == "1 0" })
}

func TestServeEndsAtOnceAtTheSecondSignal(t *testing.T) {
	s := startServing(t, "drain_timeout: 1h")
	cc, err := grpc.NewClient("passthrough:///"+s.calls, grpc.WithAuthority("hello"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	watch, err := healthpb.NewHealthClient(cc).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.send(syscall.SIGTERM)
	s.awaitLog(`"msg":"draining"`)
	etcdtest.Eventually(t, "readyz says draining", func() bool {
		resp, err := http.Get("http://" + s.admin + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusServiceUnavailable
	})
	http.DefaultClient.CloseIdleConnections()
	s.send(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(30 * time.Second):
		t.Fatal("lbproxy does not end")
	}
	if got := s.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal(); got != syscall.SIGTERM {
		t.Errorf("ended by %v, want the signal", got)
	}
}

func TestServeFlagsOverrideTheFile(t *testing.T) {
	s := startServing(t, "log: {level: error}", "--log-level", "debug", "--drain-timeout", "7s")
	resp, err := http.Get("http://" + s.admin + "/config")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	var got struct {
		DrainTimeout string `json:"drain_timeout"`
		Log          struct{ Level string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || got.DrainTimeout != "7s" || got.Log.Level != "debug" {
		t.Errorf("config = %+v, error %v", got, err)
	}
	s.send(syscall.SIGINT)
	s.awaitExit(0)
}

func TestServeRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	at, free, by := taken.Addr().String(), "127.0.0.1:0", " is taken by "
	if runtime.GOOS == "linux" {
		by += fmt.Sprintf("lbproxy.test (pid %d)", os.Getpid())
	}
	socket := filepath.Join(t.TempDir(), "socket")
	onSocket, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer onSocket.Close()
	wrong := filepath.Join(t.TempDir(), "instances.yaml")
	write(t, wrong, "services:\n  hello:\n    - {addr: here}\n    - {addr: \"127.0.0.1:1\", weight: -1}\n")
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	write(t, bad, "engine: warp\nlistners: []\n")
	for _, test := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"--config", "/does/not/exist"}, 2, []string{"/does/not/exist"}},
		{[]string{"--config", bad}, 2, []string{"lbproxy: " + bad + `:1: engine: "warp"`, "lbproxy: " + bad + ":2: listners: unknown key; did you mean listeners?"}},
		{[]string{"--engine", "warp"}, 2, []string{`engine: "warp" is unknown; use`}},
		{[]string{"--listen", "nowhere"}, 2, []string{"listeners[0].address"}},
		{[]string{"--etcd", "127.0.0.1:2379", "--instances", "f.yaml"}, 2, []string{"none of the others can be"}},
		{[]string{"--listen", at}, 1, []string{"listeners[0].address: " + at + by, "address already in use; choose another address there, or with --listen"}},
		{[]string{"--listen", free, "--admin", at}, 1, []string{"admin.address: " + at + by, "with --admin"}},
		{[]string{"--listen", free, "--admin", free, "--metrics", at}, 1, []string{"metrics.address: " + at + by, "with --metrics"}},
		{[]string{"--listen", "unix:" + socket}, 1, []string{"listeners[0].address: unix:" + socket + by, "with --listen"}},
		{[]string{"--listen", "192.0.2.1:7070"}, 1, []string{"listeners[0].address: listen tcp 192.0.2.1:7070: ", "with --listen"}},
		{[]string{"--instances", "/does/not/exist"}, 2, []string{"lbproxy: ", "/does/not/exist: no such file"}},
		{[]string{"--instances", filepath.Dir(bad)}, 2, []string{filepath.Dir(bad)}},
		{[]string{"--instances", wrong}, 2, []string{"lbproxy: " + wrong + ":3: ", "lbproxy: " + wrong + ":4: "}},
		{[]string{"now"}, 2, []string{"unknown command"}},
	} {
		code, _, stderr := lbproxy(t, append([]string{"serve"}, test.args...)...)
		for _, want := range test.want {
			if code != test.code || !strings.Contains(stderr, want) {
				t.Errorf("%v: exit code %d and\n%swant %d with %q", test.args, code, stderr, test.code, want)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	good, bad := filepath.Join(t.TempDir(), "good.yaml"), filepath.Join(t.TempDir(), "bad.yaml")
	write(t, good, "services: {hello: {}}\n")
	write(t, bad, "engine: warp\nlistners: []\n")
	if code, stdout, _ := lbproxy(t, "check", "--config", good); code != 0 || stdout != good+": ok (1 listeners, 1 services, 0 routes)\n" {
		t.Errorf("good: exit code %d, %s", code, stdout)
	}
	if code, stdout, stderr := lbproxy(t, "check", "--config", bad); code != 2 || stdout != "" || strings.Count(stderr, "lbproxy: "+bad) != 2 {
		t.Errorf("bad: exit code %d, %q, %s", code, stdout, stderr)
	}
	for path, want := range map[string]checkResult{
		good: {File: good, OK: true, Faults: []string{}},
		bad:  {File: bad, Faults: []string{bad + `:1: engine: "warp" is unknown; use relay, grpc-proxy`, bad + ":2: listners: unknown key; did you mean listeners?"}},
	} {
		_, stdout, _ := lbproxy(t, "check", "--config", path, "-o", "json")
		var got checkResult
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || got.OK != want.OK || !slices.Equal(got.Faults, want.Faults) {
			t.Errorf("%s: got %+v (%v), want %+v", path, got, err, want)
		}
	}
}
