// Package configs decides what can be configured, the defaults, and what may change while lbproxy runs.
//
// A configuration is a YAML file; lbproxy.yaml in this directory has every key, explained. Everything that is wrong with
// a file is reported at once. What the values do is left to the packages that receive them.
package configs

import (
	"fmt"
	"os"
	"time"

	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/internal/strictyaml"
	"github.com/lbproxy/lbproxy/traffic"
)

// The engines.
const (
	EngineRelay     = "relay"      // relays HTTP/2 frames
	EngineGRPCProxy = "grpc-proxy" // google.golang.org/grpc and mwitkow/grpc-proxy
)

// Config is a whole configuration.
type Config struct {
	Engine    string                     `yaml:"engine"`
	Listeners []Listener                 `yaml:"listeners"` // at least one
	Admin     Admin                      `yaml:"admin"`
	Metrics   Metrics                    `yaml:"metrics"`
	Discovery Discovery                  `yaml:"discovery"`
	Services  map[string]traffic.Service `yaml:"services"` // watched from the start; all others are watched on demand
	Routes    []traffic.Route            `yaml:"routes"`   // the first that matches wins
	Relay     Relay                      `yaml:"relay"`
	// DrainTimeout bounds how long running calls may take to end when the proxy stops.
	DrainTimeout time.Duration `yaml:"drain_timeout"`
	Log          Log           `yaml:"log"`
}

// Relay sizes the engine of that name, and bounds the memory and work that its peers can cost it.
type Relay struct {
	Workers                int           `yaml:"workers"`                  // cores that carry calls; 0: one for every four, at most eight
	MemoryMiB              int           `yaml:"memory_mib"`               // that calls may hold
	MaxConnectionAge       time.Duration `yaml:"max_connection_age"`       // of callers' connections; 0 for no limit
	MaxEndpointConnections int           `yaml:"max_endpoint_connections"` // per worker
	MaxStreams             int           `yaml:"max_streams"`              // concurrent, on a caller's connection
	MaxHeaderListKiB       int           `yaml:"max_header_list_kib"`      // of a request or response
	MaxGlitches            int           `yaml:"max_glitches"`             // useless frames in a row, or resets, in ten seconds
	MaxUnreadMiB           int           `yaml:"max_unread_mib"`           // waiting for a peer that does not read
	HandshakeTimeout       time.Duration `yaml:"handshake_timeout"`        // until a caller has spoken HTTP/2
}

// Listener is where callers reach the proxy.
type Listener struct {
	Address string `yaml:"address"`           // host:port (port 0: any free one) or unix:PATH
	Service string `yaml:"service,omitempty"` // if set, every call that arrives here is for it
}

// Admin is the HTTP interface for people and probes.
type Admin struct {
	Address string `yaml:"address"` // host:port
}

// Metrics is an additional address for /metrics, /healthz and /readyz alone; they are on the admin address too.
type Metrics struct {
	Address string `yaml:"address"` // host:port; empty for none
}

// Discovery says where the instances of services come from: exactly one of Etcd and File.Path is set.
type Discovery struct {
	Etcd        *Etcd         `yaml:"etcd,omitempty"`
	File        File          `yaml:"file"`
	IdleRelease time.Duration `yaml:"idle_release"`  // services watched on demand are released after being idle this long
	MaxOnDemand int           `yaml:"max_on_demand"` // how many services may be watched on demand at a time
}

// Etcd says how to reach etcd, see [etcd.Config].
type Etcd struct {
	Endpoints    []string      `yaml:"endpoints"`
	Root         string        `yaml:"root"`
	DialTimeout  time.Duration `yaml:"dial_timeout"`
	Username     string        `yaml:"username"`
	PasswordFile string        `yaml:"password_file"`
	TLS          *TLS          `yaml:"tls,omitempty"` // nil for plain text; a block without keys is TLS by the system's CAs
}

// TLS names the files for TLS towards etcd, see [etcd.TLSConfig].
type TLS struct {
	CA         string `yaml:"ca"`
	Cert       string `yaml:"cert"`
	Key        string `yaml:"key"`
	ServerName string `yaml:"server_name"`
}

// File names the services file, see [discovery.File].
type File struct {
	Path string `yaml:"path"`
}

// Log is how the proxy logs.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn or error
	Format string `yaml:"format"` // json, console, or auto: console on a terminal, json elsewhere
}

// Default returns the configuration without a file.
func Default() *Config {
	c := withoutSource()
	c.Discovery.Etcd = new(Etcd)
	c.Discovery.Etcd.SetDefaults()
	return c
}

// withoutSource is Default without discovery.etcd, which is the default only if no other source is configured.
func withoutSource() *Config {
	return &Config{
		Engine:    EngineRelay,
		Listeners: []Listener{{Address: "127.0.0.1:7070"}},
		Admin:     Admin{Address: "127.0.0.1:7071"},
		Discovery: Discovery{IdleRelease: 10 * time.Minute, MaxOnDemand: 1024},
		Services:  map[string]traffic.Service{}, // not nil, to be equal to "services: {}" in Reload
		Routes:    []traffic.Route{},
		Relay: Relay{
			MemoryMiB: 256, MaxEndpointConnections: 4, MaxStreams: 10_000, MaxHeaderListKiB: 1024,
			MaxGlitches: 10_000, MaxUnreadMiB: 16, HandshakeTimeout: 10 * time.Second,
		},
		DrainTimeout: 30 * time.Second,
		Log:          Log{Level: "info", Format: "auto"},
	}
}

// SetDefaults sets e to its defaults.
func (e *Etcd) SetDefaults() {
	*e = Etcd{Endpoints: []string{"127.0.0.1:2379"}, DialTimeout: 5 * time.Second}
}

// Load reads and checks the configuration in the file at path. The error lists everything that is wrong with it, each
// fault with its line and cure.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse is [Load] for a file that has been read; name stands for it in errors. Empty data gives [Default].
func Parse(name string, data []byte) (*Config, error) {
	c := withoutSource()
	faults := strictyaml.Decode(name, data, c)
	if c.Discovery.Etcd == nil && c.Discovery.File.Path == "" {
		c.Discovery.Etcd = Default().Discovery.Etcd
	}
	c.validate(faults)
	if err := faults.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

// DiscoveryConfig is e as package etcd takes it.
func (e *Etcd) DiscoveryConfig() etcd.Config {
	cfg := etcd.Config{
		Endpoints: e.Endpoints, Root: e.Root, DialTimeout: e.DialTimeout,
		Username: e.Username, PasswordFile: e.PasswordFile,
	}
	if t := e.TLS; t != nil {
		cfg.TLS = &etcd.TLSConfig{CA: t.CA, Cert: t.Cert, Key: t.Key, ServerName: t.ServerName}
	}
	return cfg
}
