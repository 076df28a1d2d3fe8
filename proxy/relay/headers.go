package relay

import (
	"slices"
	"strings"
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
	"github.com/lbproxy/lbproxy/proxy/h2/session"
	"github.com/lbproxy/lbproxy/traffic"
)

// OnHeaders implements [session.StreamHandler]: a call begins.
func (x *exchange) OnHeaders(fields []hpack.Field, size uint32, end bool) {
	c := x.owner.core
	x.size = size + nameAuthority(fields)
	x.request = append(x.request, fields...)
	a := c.newAttempt(x)
	if end {
		a.stream.Queue(nil, true)
	}
	c.charge(x)
	c.begin(x)
}

// nameAuthority turns host into :authority in a request without one, and returns by how much the fields grow: "An
// intermediary that forwards a request over HTTP/2 MUST construct an :authority pseudo-header field" (section 8.3.1).
// Where there are both, :authority is what counts, and host passes as it is.
func nameAuthority(fields []hpack.Field) (grown uint32) {
	at := -1
	for i := range fields {
		switch fields[i].Name {
		case ":authority":
			return 0
		case "host":
			at = i
		}
	}
	if at < 0 || fields[at].Value == "" {
		return 0
	}
	host := fields[at]
	copy(fields[1:at+1], fields[:at])
	fields[0] = hpack.Field{Name: ":authority", Value: host.Value, Sensitive: host.Sensitive}
	return uint32(len(":authority") - len("host"))
}

// begin routes the call and picks its endpoint.
func (c *core) begin(x *exchange) {
	l := x.owner.listener
	r := &c.request
	*r = traffic.Request{Listener: l.addr, Bound: l.service, Header: requestHeader{x}}
	ours := false
	for i := range x.request {
		field := &x.request[i]
		ours = ours || strings.HasPrefix(field.Name, traffic.MetadataPrefix)
		switch field.Name {
		case ":path":
			r.Method = field.Value
		case ":authority":
			r.Authority = field.Value
		case traffic.ServiceKey:
			r.Service = field.Value
		case traffic.VersionKey:
			r.Version = field.Value
		case "grpc-timeout":
			if d, ok := parseTimeout(field.Value); ok {
				x.deadline = x.began.Add(d)
			}
		}
	}
	if err := l.router.Begin(&x.call, r, x.began); err != nil {
		x.fail(c, err)
		return
	}
	if ours {
		x.consume(c)
	}
	x.setTimer(c)
	x.lead().pick(c)
}

// consume takes out of the request what is the proxy's own.
func (x *exchange) consume(c *core) {
	x.request = slices.DeleteFunc(x.request, func(f hpack.Field) bool { return strings.HasPrefix(f.Name, traffic.MetadataPrefix) })
	x.resized(c)
}

// age makes the request say how much of the caller's time is left. A call that did not wait keeps its time untouched:
// what has passed is below the precision of timeouts.
func (x *exchange) age(c *core) {
	if x.deadline.IsZero() || c.now.Sub(x.began) <= time.Millisecond {
		return
	}
	left := formatTimeout(x.deadline.Sub(c.now))
	for i, f := range x.request {
		if f.Name == "grpc-timeout" {
			x.request[i] = hpack.Field{Name: f.Name, Value: left, Sensitive: f.Sensitive}
		}
	}
	x.resized(c)
}

// resized notes that the request's fields have changed.
func (x *exchange) resized(c *core) {
	x.size = uint32(session.FieldsSize(x.request))
	c.charge(x)
}

// requestHeader looks fields of a request up for routes.
type requestHeader struct{ x *exchange }

func (h requestHeader) Get(key string) (values []string) {
	for _, f := range h.x.request {
		if f.Name == key {
			values = append(values, f.Value)
		}
	}
	return values
}
