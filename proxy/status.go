package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/traffic"
)

// ErrorTrailer is the trailer that marks a status as the proxy's own and carries its [Reason].
const ErrorTrailer = "lbproxy-error"

// Reason is why the proxy itself failed a call.
type Reason string

// The reasons.
const (
	NoRoute              Reason = "no_route"
	UnknownService       Reason = "unknown_service"
	DiscoveryUnavailable Reason = "discovery_unavailable"
	NoInstances          Reason = "no_instances"
	NoReadyEndpoint      Reason = "no_ready_endpoint"
	BackendLost          Reason = "backend_lost"
	BackendProtocol      Reason = "backend_protocol"
	Limit                Reason = "limit"
	Draining             Reason = "draining"
	Deadline             Reason = "deadline"
)

// An Error is a status that the proxy itself makes. Every one is made in this file; a backend's own status
// passes untouched.
type Error struct {
	Reason  Reason
	Code    codes.Code
	Message string // names the service, what was tried, and what helps

	httpStatus int // 0 for that of Code
}

func (e *Error) Error() string { return fmt.Sprintf("%s (%s): %s", e.Reason, e.Code, e.Message) }

// HTTPStatus is what a caller gets that speaks no gRPC. INTERNAL is never the proxy's fault: it is the instance's, unless
// the request itself is.
func (e *Error) HTTPStatus() int {
	if e.httpStatus != 0 {
		return e.httpStatus
	}
	switch e.Code {
	case codes.Unimplemented, codes.NotFound:
		return http.StatusNotFound
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Internal:
		return http.StatusBadGateway
	}
	return http.StatusServiceUnavailable
}

// fail makes a status. Callers' own words, which may be of any length, are cut.
func fail(reason Reason, code codes.Code, format string, args ...any) *Error {
	return &Error{Reason: reason, Code: code, Message: "lbproxy: " + fmt.Sprintf(format, args...)}
}

// noRouteCode is UNIMPLEMENTED, as of a server that lacks the method. Of the reflection service that would say that the
// server has none, and clients such as grpcurl say just that in place of the message; they show it with NOT_FOUND.
func noRouteCode(r *traffic.Request) codes.Code {
	if strings.HasPrefix(r.Method, "/grpc.reflection.") {
		return codes.NotFound
	}
	return codes.Unimplemented
}

// errUnrouted is for a call that [traffic.Rules] have no action for.
func errUnrouted(r *traffic.Request, err error) *Error {
	var bad *traffic.NameError
	if errors.As(err, &bad) {
		return fail(NoRoute, noRouteCode(r), "no service for %.200s: %.200q, taken from the call, cannot be one: %.400v",
			r.Method, bad.Name, bad.Err)
	}
	return fail(NoRoute, noRouteCode(r),
		"no service for %.200s: the listener %s is bound to none, the call has no metadata %s, no route matches, and "+
			":authority %.200q names none; set one of these",
		r.Method, r.Listener, traffic.ServiceKey, r.Authority)
}

func errUnknownService(service string) *Error {
	return fail(UnknownService, codes.Unavailable,
		"service %q is unknown: nothing has been registered under this name; check the name, and that an instance runs and registers",
		service)
}

func errDiscoveryUnavailable(service string, waited time.Duration, cause error) *Error {
	return fail(DiscoveryUnavailable, codes.Unavailable,
		"service %q: the registry has not answered within %s, so its instances are not known yet%s; check that lbproxy reaches it (/readyz says more)",
		service, waited, because(cause))
}

// because puts a cause, if it is known, behind what it is the cause of.
func because(cause error) string {
	if cause == nil {
		return ""
	}
	return ": " + cause.Error()
}

func errNoInstances(service, version string, known picker.Availability, poisoned []discovery.Poisoned, waited time.Duration) *Error {
	of, meanwhile := "", ""
	if version != "" {
		of = fmt.Sprintf(" of version %.200q", version)
	}
	if waited > 0 {
		meanwhile = fmt.Sprintf(", and none has come within %s", waited)
	}
	if known.Instances == 0 && len(poisoned) > 0 {
		return fail(NoInstances, codes.Unavailable,
			"service %q has no instances%s: %s in the registry cannot be used: %s%s%s; put it right (`lbproxy services %s` lists what is wrong)",
			service, of, poisoned[0].Key, poisoned[0].Fault, andOthers(len(poisoned)-1), meanwhile, service)
	}
	if known.Instances == 0 {
		return fail(NoInstances, codes.Unavailable, "service %q has no instances%s: none is registered now%s; start one",
			service, of, meanwhile)
	}
	return fail(NoInstances, codes.Unavailable, "service %q takes no calls: all its instances%s (%d) are drained%s; give one a weight above 0",
		service, of, known.Instances, meanwhile)
}

func andOthers(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (and %d more)", n)
}

func errNoReadyEndpoint(service string, known picker.Availability, lastErrors string, waited time.Duration) *Error {
	if lastErrors != "" {
		lastErrors = "; last error: " + lastErrors
	}
	return fail(NoReadyEndpoint, codes.Unavailable,
		"service %q: could not connect to any of its %d instances within %s%s; check that they listen at the addresses they register",
		service, known.Serving, waited, lastErrors)
}

// ErrBackendLost is for a call whose connection to the backend ended before the backend gave a status.
func ErrBackendLost(service, addr string, cause error) *Error {
	return fail(BackendLost, codes.Unavailable, "service %q: lost instance %s during the call: %v", service, addr, cause)
}

// ErrBackendProtocol is for a call that the backend answered with something that is not gRPC over HTTP/2.
func ErrBackendProtocol(service, addr string, cause error) *Error {
	return fail(BackendProtocol, codes.Internal, "service %q: instance %s broke the protocol: %v", service, addr, cause)
}

// ErrMetadataTooLarge is for a call whose metadata is more than the backend takes; it would end the connection,
// and other calls with it.
func ErrMetadataTooLarge(service, addr string, size, most uint32) *Error {
	err := fail(Limit, codes.Internal, "service %q: instance %s takes a header list size of %d bytes, the call's is %d; send less metadata",
		service, addr, most, size)
	err.httpStatus = http.StatusRequestHeaderFieldsTooLarge
	return err
}

// ErrAnswerTooLarge is for a call whose answer has more metadata than the caller takes; it would end the caller's
// connection, and other calls with it.
func ErrAnswerTooLarge(service, addr string, size, most uint32) *Error {
	return fail(Limit, codes.Internal, "service %q: the caller takes a header list size of %d bytes, instance %s answers with %d; have it send less metadata, or raise the caller's limit",
		service, most, addr, size)
}

// ErrMemory is for a call that holds much of a memory that is used up: one of its ends sends faster than the
// other reads.
func ErrMemory(service string, budget int) *Error {
	return fail(Limit, codes.ResourceExhausted,
		"service %q: the memory for calls, %d MiB, is used up, and this one is among those that hold most of it; read faster, run fewer calls at a time, or raise relay.memory_mib",
		service, budget>>20)
}

func errTooManyServices(service string, bound int) *Error {
	return fail(Limit, codes.ResourceExhausted,
		"service %q: %d services are watched on demand already; list it under services in the configuration, or raise discovery.max_on_demand",
		service, bound)
}

// ErrDraining is for a call that could not end before the proxy did.
func ErrDraining() *Error {
	return fail(Draining, codes.Unavailable, "the proxy is shutting down; call again")
}

// ErrDeadline is for a call whose own deadline ran out inside the proxy. Allowed is how long the caller gave it, doing what it did in
// the end, for how long it did.
func ErrDeadline(service string, allowed, took time.Duration, doing string) *Error {
	return fail(Deadline, codes.DeadlineExceeded, "service %q: the call's deadline of %s ran out after %s of %s",
		service, legible(allowed), legible(took), doing)
}

// legible is d without digits that say nothing to people.
func legible(d time.Duration) time.Duration {
	switch {
	case d >= time.Second:
		return d.Round(time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(time.Microsecond)
	}
	return d
}
