package configs

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/internal/strictyaml"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/traffic"
)

// maxSocketPath is the longest path of a unix socket in bytes, without the terminating zero (unix(7)).
const maxSocketPath = 107

var (
	engines    = []string{EngineRelay, EngineGRPCProxy}
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"auto", "json", "console"}
)

// Validate returns everything that is wrong with c, for configurations that were not made by [Load] or have changed since;
// the faults have no lines.
func (c *Config) Validate() error {
	var faults strictyaml.Faults
	c.validate(&faults)
	return faults.Err()
}

// checks adds faults to those of a document.
type checks struct{ *strictyaml.Faults }

func (c *Config) validate(faults *strictyaml.Faults) {
	v := checks{faults}
	v.oneOf("engine", c.Engine, engines)
	v.addresses(c)
	v.discovery("discovery", &c.Discovery)
	for _, name := range slices.Sorted(maps.Keys(c.Services)) {
		v.service(strictyaml.Path("services").Key(name), name, c.Services[name])
	}
	for i, r := range c.Routes {
		v.route(strictyaml.Path("routes").Index(i), r)
	}
	v.relay("relay", c.Relay)
	v.positive("drain_timeout", c.DrainTimeout)
	v.oneOf("log.level", c.Log.Level, logLevels)
	v.oneOf("log.format", c.Log.Format, logFormats)
}

func (v checks) oneOf(at strictyaml.Path, value string, known []string) {
	if !slices.Contains(known, value) {
		v.Add(at, "%q is unknown; use %s", value, strings.Join(known, ", "))
	}
}

func (v checks) relay(at strictyaml.Path, r Relay) {
	v.within(at.Key("workers"), r.Workers, 0, 64)
	v.within(at.Key("memory_mib"), r.MemoryMiB, 16, 1<<20)
	v.within(at.Key("max_endpoint_connections"), r.MaxEndpointConnections, 1, 100)
	v.within(at.Key("max_streams"), r.MaxStreams, 1, 1_000_000)
	v.within(at.Key("max_header_list_kib"), r.MaxHeaderListKiB, 8, 16<<10)
	v.within(at.Key("max_glitches"), r.MaxGlitches, 100, 100_000_000)
	v.within(at.Key("max_unread_mib"), r.MaxUnreadMiB, 1, 1<<10)
	v.positive(at.Key("handshake_timeout"), r.HandshakeTimeout)
	v.positiveOrNever(at.Key("max_connection_age"), r.MaxConnectionAge)
}

func (v checks) within(at strictyaml.Path, n, least, most int) {
	if n < least || n > most {
		v.Add(at, "%d is out of range; write a number from %d to %d", n, least, most)
	}
}

func (v checks) positive(at strictyaml.Path, d time.Duration) {
	if d < time.Millisecond {
		v.Add(at, "%v is too short; write a time such as 500ms or 5s, at least 1ms", d)
	}
}

// positiveOrNever accepts 0 for never.
func (v checks) positiveOrNever(at strictyaml.Path, d time.Duration) {
	if d != 0 {
		v.positive(at, d)
	}
}

// addresses checks every address to listen on, by itself and against the others.
func (v checks) addresses(c *Config) {
	if len(c.Listeners) == 0 {
		v.Add("listeners", "there is none, so nothing could call; leave the key out for the default, 127.0.0.1:7070")
	}
	taken := map[string]strictyaml.Path{}
	for i, l := range c.Listeners {
		at := strictyaml.Path("listeners").Index(i)
		v.listen(at.Key("address"), l.Address, taken)
		if l.Service != "" {
			v.Check(at.Key("service"), discovery.ValidateService(l.Service))
		}
	}
	v.http("admin.address", c.Admin.Address, taken)
	if c.Metrics.Address != "" {
		v.http("metrics.address", c.Metrics.Address, taken)
	}
}

func (v checks) http(at strictyaml.Path, address string, taken map[string]strictyaml.Path) {
	if strings.HasPrefix(address, "unix:") {
		v.Add(at, "%q is a unix socket, which serves calls only; use host:port", address)
		return
	}
	v.listen(at, address, taken)
}

func (v checks) listen(at strictyaml.Path, address string, taken map[string]strictyaml.Path) {
	id, err := listenID(address)
	if err != nil {
		v.Add(at, "%v", err)
		return
	}
	if other, ok := taken[id]; ok {
		v.Add(at, "%q is taken by %s already; choose another", address, other)
		return
	}
	if id != "" {
		taken[id] = at
	}
}

// listenID checks an address to listen on, host:port or unix:PATH, and returns an id that equal addresses share. It is
// empty for addresses that never clash: any number of listeners may ask for a free port.
func listenID(address string) (string, error) {
	if address == "" {
		return "", errors.New("there is none; write it like 127.0.0.1:7070")
	}
	if file, ok := strings.CutPrefix(address, "unix:"); ok {
		switch {
		case !strings.HasPrefix(file, "/"):
			return "", fmt.Errorf("%q has no absolute path; write it like unix:/run/lbproxy/hello.sock", address)
		case len(file) > maxSocketPath:
			return "", fmt.Errorf("socket path of %d bytes is too long; at most %d", len(file), maxSocketPath)
		}
		return "unix:" + path.Clean(file), nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("%q is not host:port; write it like 127.0.0.1:7070", address)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", fmt.Errorf("%q: port %q is not a number from 0 (any free one) to 65535", address, port)
	}
	if n == 0 {
		return "", nil
	}
	if host != "" { // no host: all addresses of this one
		if err := discovery.ValidateHostPort(address); err != nil {
			return "", err
		}
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}

func (v checks) discovery(at strictyaml.Path, d *Discovery) {
	switch {
	case d.Etcd != nil && d.File.Path != "":
		v.Add(at.Key("file").Key("path"), "instances come from discovery.etcd or from a file, not from both; remove one")
	case d.Etcd == nil && d.File.Path == "":
		v.Add(at, "instances come from nowhere; set discovery.etcd or discovery.file.path")
	}
	if d.Etcd != nil {
		v.etcd(at.Key("etcd"), d.Etcd)
	}
	v.positive(at.Key("idle_release"), d.IdleRelease)
	if d.MaxOnDemand < 1 {
		v.Add(at.Key("max_on_demand"), "%d is too few; use at least 1", d.MaxOnDemand)
	}
}

func (v checks) etcd(at strictyaml.Path, e *Etcd) {
	if len(e.Endpoints) == 0 {
		v.Add(at.Key("endpoints"), "there is none; name at least one, such as 127.0.0.1:2379")
	}
	for i, endpoint := range e.Endpoints {
		v.Check(at.Key("endpoints").Index(i), validateEndpoint(endpoint, e.TLS != nil))
	}
	if e.Root != "" && (e.Root == "/" || e.Root != path.Clean(e.Root) || e.Root[0] != '/') {
		v.Add(at.Key("root"), "%q is no prefix of keys; write it like /lbproxy, without a slash at the end, or leave it empty", e.Root)
	}
	v.positive(at.Key("dial_timeout"), e.DialTimeout)
	v.pair(at, "username", e.Username, "password_file", e.PasswordFile)
	if e.TLS != nil {
		v.pair(at.Key("tls"), "cert", e.TLS.Cert, "key", e.TLS.Key)
	}
}

// pair reports a fault if only one of two keys that belong together is set.
func (v checks) pair(at strictyaml.Path, a, valueA, b, valueB string) {
	if valueA == "" && valueB != "" {
		a, b = b, a
	}
	if (valueA == "") != (valueB == "") {
		v.Add(at.Key(a), "is set and %s is not; set both or neither", b)
	}
}

func validateEndpoint(endpoint string, withTLS bool) error {
	shown := redactURL(endpoint)
	scheme, host, isURL := strings.Cut(endpoint, "://")
	if !isURL {
		scheme, host = "", endpoint
	} else if u, err := url.Parse(endpoint); err == nil {
		host = u.Host
	}
	switch {
	case shown != endpoint:
		return fmt.Errorf("%q names a user, which the client would not use; use username and password_file", shown)
	case isURL && scheme != "http" && scheme != "https":
		return fmt.Errorf("%q: scheme %q is unknown; use host:port, http:// or https://", shown, scheme)
	case scheme == "http" && withTLS:
		// The client would silently not use TLS.
		return fmt.Errorf("%q is without TLS though tls is set; use host:port or https://", shown)
	case discovery.ValidateHostPort(host) != nil:
		return fmt.Errorf("%q has no host:port that can be dialled; write it like 127.0.0.1:2379 or https://etcd.internal:2379", shown)
	}
	return nil
}

func (v checks) service(at strictyaml.Path, name string, s traffic.Service) {
	v.Check(at, discovery.ValidateService(name))
	v.Check(at.Key("policy"), picker.ValidatePolicy(s.Policy))
	v.Check(at.Key("version"), discovery.ValidateVersion(s.Version))
	v.positive(at.Key("wait_timeout"), s.WaitTimeout)
	v.positiveOrNever(at.Key("keepalive").Key("time"), s.Keepalive.Time)
	v.positive(at.Key("keepalive").Key("timeout"), s.Keepalive.Timeout)
}

func (v checks) route(at strictyaml.Path, r traffic.Route) {
	if r.Method == "" && r.Authority == "" && len(r.Headers) == 0 {
		v.Add(at, "it has no condition; set method, authority or headers")
	}
	if r.Method != "" {
		v.Check(at.Key("method"), validateMethod(r.Method))
	}
	if strings.ContainsAny(r.Authority, " /@") {
		v.Add(at.Key("authority"), "%q is not a host; write it like greeter.internal", r.Authority)
	} else if _, port, err := net.SplitHostPort(r.Authority); err == nil {
		v.Add(at.Key("authority"), "%q has a port, and hosts are compared without theirs; remove :%s", r.Authority, port)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		v.Check(at.Key("headers").Key(name), validateHeader(name, r.Headers[name]))
	}
	if r.Service == "" {
		v.Add(at.Key("service"), "there is none; name the service that the route leads to")
	} else {
		v.Check(at.Key("service"), discovery.ValidateService(r.Service))
	}
	v.Check(at.Key("version"), discovery.ValidateVersion(r.Version))
}

// validateMethod requires a whole service or one of its methods, because "/user" would also match "/user.Admin/". "/"
// alone matches everything.
func validateMethod(method string) error {
	switch {
	case !strings.HasPrefix(method, "/"):
		return fmt.Errorf("%q does not begin with a slash; write it like /helloworld.Greeter/ or /helloworld.Greeter/SayHello", method)
	case strings.Count(method, "/") > 2 || strings.HasPrefix(method, "//"):
		return fmt.Errorf("%q is no gRPC method; write it like /helloworld.Greeter/SayHello", method)
	case strings.Count(method, "/") == 1 && method != "/":
		return fmt.Errorf("%q ends within a name; write %q for the whole service", method, method+"/")
	}
	return nil
}

func validateHeader(name, value string) error {
	switch lower := strings.ToLower(name); {
	case strings.HasPrefix(name, ":"):
		return fmt.Errorf("%q is no metadata; use the condition method or authority", name)
	case strings.HasPrefix(lower, traffic.MetadataPrefix):
		return fmt.Errorf("%q is consumed by lbproxy before routes are looked at; use another name", name)
	case name != lower:
		return fmt.Errorf("header names are in lower case on the wire; write %q", lower)
	case name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "":
		return fmt.Errorf("%q is no name of metadata; use a-z, 0-9, '-', '_' and '.'", name)
	case value == "":
		return errors.New("the value is empty; write the one that calls must carry")
	}
	return nil
}
