package proxy

import (
	"strings"
	"sync/atomic"

	"github.com/lbproxy/lbproxy/discovery"
)

// Metadata by which a call says where it wants to go. Keys with MetadataPrefix are consumed by the proxy and
// never forwarded.
const (
	MetadataPrefix = "lbproxy-"
	ServiceKey     = "lbproxy-service"
	VersionKey     = "lbproxy-version"
)

// A Request is what routing looks at in a call.
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

// A Route sends the calls that meet all its conditions to a service. Conditions left empty always hold.
type Route struct {
	Method    string            // prefix of the method: /package.Service/ or /package.Service/Method
	Authority string            // host part of :authority
	Headers   map[string]string // metadata, by lower-case key

	Service string
	Version string // may be empty
}

func (r *Route) matches(req *Request, host string) bool {
	if r.Method != "" && !strings.HasPrefix(req.Method, r.Method) {
		return false
	}
	if r.Authority != "" && !strings.EqualFold(unrooted(r.Authority), host) {
		return false
	}
	for key, want := range r.Headers {
		if !contains(req.Header.Get(key), want) {
			return false
		}
	}
	return true
}

func contains(values []string, want string) bool {
	for _, v := range values {
		if v == want {
			return true
		}
	}
	return false
}

// router tells which service a call is for. Its routes can be replaced at any time.
type router struct{ routes atomic.Pointer[[]Route] }

// route returns the service, and the version if the call is limited to one.
func (r *router) route(req *Request) (service, version string, _ *Error) {
	switch {
	case req.Bound != "":
		return req.Bound, req.Version, nil
	case req.Service != "":
		if err := discovery.ValidateService(req.Service); err != nil {
			return "", "", errBadName(req, req.Service, err)
		}
		return req.Service, req.Version, nil
	}
	host := hostOf(req.Authority)
	if routes := r.routes.Load(); routes != nil {
		for i := range *routes {
			if route := &(*routes)[i]; route.matches(req, host) {
				if req.Version != "" {
					return route.Service, req.Version, nil
				}
				return route.Service, route.Version, nil
			}
		}
	}
	if !namesService(host) {
		return "", "", errNoRoute(req)
	}
	if err := discovery.ValidateService(host); err != nil {
		return "", "", errBadName(req, host, err)
	}
	return host, req.Version, nil
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
