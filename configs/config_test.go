package configs_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lbproxy/lbproxy/configs"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/traffic"
)

func parse(t *testing.T, data string) *configs.Config {
	t.Helper()
	c, err := configs.Parse("test.yaml", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const everyKey = `
engine: grpc-proxy
listeners:
  - {address: "127.0.0.1:0"}
  - {address: "127.0.0.1:0"}
  - {address: "unix:/run/lbproxy/hello.sock", service: hello}
admin: {address: ":8071"}
metrics: {address: "[::]:9090"}
discovery:
  etcd:
    endpoints: ["10.0.0.1:2379", "https://etcd.internal:2379"]
    root: /lbproxy/prod
    dial_timeout: 1500ms
    username: lbproxy
    password_file: /etc/lbproxy/password
    tls: {ca: /ca.pem, cert: /cert.pem, key: /key.pem, server_name: etcd}
  idle_release: 1h
  max_on_demand: 5
services:
  hello: {policy: least_request, version: "1.0.0", wait_timeout: 250ms, keepalive: {time: 1m, timeout: 10s}}
  1.0: {}
routes:
  - {method: /helloworld.Greeter/, service: hello}
  - {authority: greeter.internal, service: hello, version: "2.0.0"}
  - {headers: {x-team: blue, x-n: "1"}, method: /a.B/C, service: hello-blue}
relay:
  workers: 2
  memory_mib: 64
  max_connection_age: 1h
  max_endpoint_connections: 1
  max_streams: 100
  max_header_list_kib: 16
  max_glitches: 1000
  max_unread_mib: 1
  handshake_timeout: 1s
drain_timeout: 1m
log: {level: debug, format: console}
`

func wantEveryKey() *configs.Config {
	return &configs.Config{
		Engine: "grpc-proxy",
		Listeners: []configs.Listener{
			{Address: "127.0.0.1:0"}, {Address: "127.0.0.1:0"}, {Address: "unix:/run/lbproxy/hello.sock", Service: "hello"},
		},
		Admin:   configs.Admin{Address: ":8071"},
		Metrics: configs.Metrics{Address: "[::]:9090"},
		Discovery: configs.Discovery{
			Etcd: &configs.Etcd{
				Endpoints: []string{"10.0.0.1:2379", "https://etcd.internal:2379"}, Root: "/lbproxy/prod",
				DialTimeout: 1500 * time.Millisecond, Username: "lbproxy", PasswordFile: "/etc/lbproxy/password",
				TLS: &configs.TLS{CA: "/ca.pem", Cert: "/cert.pem", Key: "/key.pem", ServerName: "etcd"},
			},
			IdleRelease: time.Hour, MaxOnDemand: 5,
		},
		Services: map[string]traffic.Service{
			"hello": {
				Policy: "least_request", Version: "1.0.0", WaitTimeout: 250 * time.Millisecond,
				Keepalive: traffic.Keepalive{Time: time.Minute, Timeout: 10 * time.Second},
			},
			"1.0": {
				Policy: "weighted_round_robin", WaitTimeout: time.Second, Keepalive: traffic.Keepalive{Timeout: 20 * time.Second},
			},
		},
		Routes: []traffic.Route{
			{Method: "/helloworld.Greeter/", Service: "hello"},
			{Authority: "greeter.internal", Service: "hello", Version: "2.0.0"},
			{Headers: map[string]string{"x-team": "blue", "x-n": "1"}, Method: "/a.B/C", Service: "hello-blue"},
		},
		Relay: configs.Relay{
			Workers: 2, MemoryMiB: 64, MaxConnectionAge: time.Hour, MaxEndpointConnections: 1, MaxStreams: 100,
			MaxHeaderListKiB: 16, MaxGlitches: 1000, MaxUnreadMiB: 1, HandshakeTimeout: time.Second,
		},
		DrainTimeout: time.Minute,
		Log:          configs.Log{Level: "debug", Format: "console"},
	}
}

func TestParse(t *testing.T) {
	fromFile := configs.Default()
	fromFile.Discovery.Etcd, fromFile.Discovery.File.Path = nil, "services.yaml"
	withTLS := configs.Default()
	withTLS.Discovery.Etcd.TLS = &configs.TLS{}
	for _, test := range []struct {
		name, data string
		want       *configs.Config
	}{
		{"nothing", "", configs.Default()},
		{"keys without values", "listeners:\ndiscovery:\nservices:\nlog:\n", configs.Default()},
		{"every key", everyKey, wantEveryKey()},
		{"file instead of etcd", "discovery: {file: {path: services.yaml}}", fromFile},
		{"a tls block without keys is TLS", "discovery:\n  etcd:\n    tls:\n", withTLS},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, parse(t, test.data)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestDefaultIsValid(t *testing.T) {
	if err := configs.Default().Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidateAfterAChange(t *testing.T) {
	c := configs.Default()
	c.Log.Level = "loud"
	c.Discovery.Etcd = nil
	want := "discovery: instances come from nowhere; set discovery.etcd or discovery.file.path\n" +
		`log.level: "loud" is unknown; use debug, info, warn, error`
	if diff := cmp.Diff(want, c.Validate().Error()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Each testdata/NAME.bad.yaml has its faults in NAME.bad.txt.
func TestBadConfigs(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bad.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no bad configurations found: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want, err := os.ReadFile(strings.TrimSuffix(file, ".yaml") + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			c, err := configs.Load(file)
			if err == nil {
				t.Fatalf("accepted: %+v", c)
			}
			if diff := cmp.Diff(string(want), err.Error()+"\n"); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestLoadOfAMissingFileNamesIt(t *testing.T) {
	if _, err := configs.Load("testdata/none.yaml"); err == nil || !strings.Contains(err.Error(), "testdata/none.yaml") {
		t.Errorf("error = %v, want one that names the file", err)
	}
}

func TestDiscoveryConfig(t *testing.T) {
	want := etcd.Config{
		Endpoints: []string{"10.0.0.1:2379", "https://etcd.internal:2379"}, Root: "/lbproxy/prod",
		DialTimeout: 1500 * time.Millisecond, Username: "lbproxy", PasswordFile: "/etc/lbproxy/password",
		TLS: &etcd.TLSConfig{CA: "/ca.pem", Cert: "/cert.pem", Key: "/key.pem", ServerName: "etcd"},
	}
	if diff := cmp.Diff(want, parse(t, everyKey).Discovery.Etcd.DiscoveryConfig()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := configs.Default().Discovery.Etcd.DiscoveryConfig().TLS; got != nil {
		t.Errorf("TLS of the default = %v, want none", got)
	}
}

func TestMarshal(t *testing.T) {
	c := parse(t, everyKey)
	written, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c, parse(t, string(written))); diff != "" {
		t.Errorf("YAML: -written +read:\n%s", diff)
	}
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c, parse(t, string(asJSON))); diff != "" {
		t.Errorf("JSON: -written +read:\n%s", diff)
	}
	for _, want := range []string{
		`"drain_timeout":"1m0s"`, `"dial_timeout":"1.5s"`, `"address":"unix:/run/lbproxy/hello.sock"`, `"max_on_demand":5`,
	} {
		if !strings.Contains(string(asJSON), want) {
			t.Errorf("JSON lacks %s:\n%s", want, asJSON)
		}
	}
}

func TestRedacted(t *testing.T) {
	c := parse(t, everyKey)
	c.Discovery.Etcd.Endpoints = []string{"https://root:secret@etcd:2379", "root:p@ss@etcd:2379", "https://etcd:2379", "http://u@[bad"}
	got := c.Redacted()
	want := []string{"https://xxxxx@etcd:2379", "xxxxx@etcd:2379", "https://etcd:2379", "http://xxxxx@[bad"}
	if diff := cmp.Diff(want, got.Discovery.Etcd.Endpoints); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if c.Discovery.Etcd.Endpoints[0] != "https://root:secret@etcd:2379" {
		t.Error("the original was modified")
	}
	got.Discovery.Etcd.Endpoints = c.Discovery.Etcd.Endpoints
	if diff := cmp.Diff(c, got); diff != "" {
		t.Errorf("something else changed: -want +got:\n%s", diff)
	}
}

func TestReload(t *testing.T) {
	for _, test := range []struct {
		name, from, to   string
		changed, restart []string
	}{
		{"nothing", "", "services: {}\nroutes: []\n", nil, nil},
		{"everything live", "", "services: {a: {}}\nroutes: [{authority: a, service: a}]\nlog: {level: warn}", []string{"services", "routes", "log.level"}, nil},
		{"a service's setting", "services: {a: {}}", "services: {a: {policy: random}}", []string{"services"}, nil},
		{
			"both kinds", "", "listeners: [{address: ':1'}]\ndiscovery: {etcd: {root: /a, tls: }}\nlog: {level: warn, format: console}",
			[]string{"log.level"},
			[]string{"listeners", "discovery.etcd.root", "discovery.etcd.tls", "log.format"},
		},
		{"another source", "", "discovery: {file: {path: a}}", nil, []string{"discovery.etcd", "discovery.file.path"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			from, to := parse(t, test.from), parse(t, test.to)
			now, changed, restart := from.Reload(to)
			if diff := cmp.Diff(test.changed, changed); diff != "" {
				t.Errorf("changed: -want +got:\n%s", diff)
			}
			if diff := cmp.Diff(test.restart, restart); diff != "" {
				t.Errorf("restart: -want +got:\n%s", diff)
			}
			want := parse(t, test.from)
			want.Services, want.Routes, want.Log.Level = to.Services, to.Routes, to.Log.Level
			if diff := cmp.Diff(want, now); diff != "" {
				t.Errorf("now: -want +got:\n%s", diff)
			}
			if diff := cmp.Diff(parse(t, test.from), from); diff != "" {
				t.Errorf("the running configuration was modified: -want +got:\n%s", diff)
			}
		})
	}
}

// A key that is added and forgotten here must not count as unchanged.
func TestReloadSeesEveryKey(t *testing.T) {
	_, changed, restart := (&configs.Config{}).Reload(wantEveryKey())
	got := slices.Sorted(slices.Values(append(changed, restart...)))
	want := slices.Sorted(maps.Keys(map[string]bool{
		"engine": true, "listeners": true, "admin.address": true, "metrics.address": true, "discovery.etcd": true,
		"discovery.idle_release": true, "discovery.max_on_demand": true, "services": true, "routes": true,
		"drain_timeout": true, "log.level": true, "log.format": true,
		"relay.workers": true, "relay.memory_mib": true, "relay.max_connection_age": true,
		"relay.max_endpoint_connections": true, "relay.max_streams": true, "relay.max_header_list_kib": true,
		"relay.max_glitches": true, "relay.max_unread_mib": true, "relay.handshake_timeout": true,
	}))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if n := reflect.TypeFor[configs.Config]().NumField(); n != 10 {
		t.Errorf("Config has %d fields; say in this test whether the new ones change live", n)
	}
}

// FuzzParse: whatever is accepted means the same after it has been written as YAML and as JSON.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yaml", "*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Add([]byte(everyKey))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := configs.Parse("fuzz.yaml", data)
		if err != nil {
			return
		}
		asYAML, err := yaml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		asJSON, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, written := range [][]byte{asYAML, asJSON} {
			again, err := configs.Parse("written", written)
			if err != nil {
				t.Fatalf("%v\nin:\n%s", err, written)
			}
			if diff := cmp.Diff(c, again, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("-first +again:\n%s\nin:\n%s", diff, written)
			}
		}
	})
}
