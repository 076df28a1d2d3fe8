package traffic

import (
	"errors"
	"slices"
	"strings"

	"github.com/lbproxy/lbproxy/discovery"
)

// Metadata by which a call says where it wants to go. Keys with MetadataPrefix are consumed by the proxy and
// never forwarded.
const (
	MetadataPrefix = "lbproxy-"
	ServiceKey     = "lbproxy-service"
	VersionKey     = "lbproxy-version"
)

// A Request is what rules look at in a call.
type Request struct {
	Listener  string // the address it arrived at
	Bound     string // the service that listener is bound to, if any
	Method    string // /package.Service/Method
	Authority string
	Service   string // metadata lbproxy-service, if any
	Version   string // metadata lbproxy-version, if any
	Header    Header
}

// Header looks up a call's metadata by lower-case key.
type Header interface{ Get(key string) []string }

// A Route leads the calls that meet all its conditions to a service. It has one condition at least.
type Route struct {
	Method    string            `yaml:"method,omitempty"`    // prefix of the full method: "/pkg.Service/" or "/pkg.Service/Method"
	Authority string            `yaml:"authority,omitempty"` // the host the caller dialled, without port
	Headers   map[string]string `yaml:"headers,omitempty"`   // metadata that the call must carry with these values
	Service   string            `yaml:"service"`
	Version   string            `yaml:"version,omitempty"` // of instances, for calls that name none themselves; empty for the service's
}

func (r *Route) matches(req *Request, host string) bool {
	if r.Method != "" && !strings.HasPrefix(req.Method, r.Method) {
		return false
	}
	if r.Authority != "" && !strings.EqualFold(unrooted(r.Authority), host) {
		return false
	}
	for key, want := range r.Headers {
		if !slices.Contains(req.Header.Get(key), want) {
			return false
		}
	}
	return true
}

// An Action is what is to be done with one call.
type Action struct {
	Service string
	Subset  string // the version of instances that the call is limited to; empty to leave it to the service's settings
	Rule    *Route // by which the service was found; nil if that took none
}

// ErrNoMatch is why there is no action: no rule matches, and the call names no service either.
var ErrNoMatch = errors.New("no rule matches, and the call names no service")

// NameError is why there is no action: what a call names cannot be a service.
type NameError struct {
	Name string
	Err  error
}

func (e *NameError) Error() string { return e.Err.Error() }
func (e *NameError) Unwrap() error { return e.Err }

// Match fills in what is to be done with a call, or returns [ErrNoMatch] or a [NameError]. The service comes from the first
// of these that says: the listener, the call's metadata, a route, the call's authority.
func (r *Rules) Match(req *Request, a *Action) error {
	*a = Action{Service: req.Bound, Subset: req.Version}
	switch {
	case req.Bound != "":
		return nil
	case req.Service != "":
		return a.named(req.Service)
	}
	host := hostOf(req.Authority)
	for i := range r.Routes {
		if route := &r.Routes[i]; route.matches(req, host) {
			a.ruled(route)
			return nil
		}
	}
	if !namesService(host) {
		return ErrNoMatch
	}
	return a.named(host)
}

// named is for a call that names its service.
func (a *Action) named(service string) error {
	if err := discovery.ValidateService(service); err != nil {
		return &NameError{service, err}
	}
	a.Service = service
	return nil
}

// ruled is for a call that meets a route's conditions. A version that the call itself names goes before.
func (a *Action) ruled(r *Route) {
	a.Service, a.Rule = r.Service, r
	if a.Subset == "" {
		a.Subset = r.Version
	}
}

// hostOf cuts the port off an authority, the brackets off an IPv6 address, and the root's dot off a name.
func hostOf(authority string) string {
	if rest, ok := strings.CutPrefix(authority, "["); ok {
		host, _, _ := strings.Cut(rest, "]")
		return host
	}
	host := authority
	if strings.Count(authority, ":") == 1 {
		host, _, _ = strings.Cut(authority, ":")
	}
	return unrooted(host)
}

// unrooted is a host's name without the dot that makes it absolute (RFC 3986, section 3.2.2): it is the same host.
func unrooted(host string) string { return strings.TrimSuffix(host, ".") }

// namesService tells a service's name from an address that merely says where the proxy listens. It does not
// parse addresses, because the error for a name that is none would be garbage of every call.
func namesService(host string) bool {
	switch {
	case host == "", strings.EqualFold(host, "localhost"):
		return false
	case strings.Contains(host, ":"): // IPv6
		return false
	case strings.Contains(host, "."): // IPv4
		return strings.Trim(host, "0123456789.") != ""
	}
	return true
}
