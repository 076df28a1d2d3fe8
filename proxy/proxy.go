// Package proxy decides the way of each call: which service it is for, which endpoint gets it, how long it
// may wait for one, whether another gets it when that one fails, what status the proxy makes when it fails by itself,
// and what is counted.
//
// It is written once, above the engines, which only move bytes. For each call an engine does
//
//	p.Begin(&call, &request, now) route: which service
//	call.Pick(ctx)                pick: an attempt at which endpoint, waiting a little for one to connect
//	   ... relays the call through attempt.Endpoint(); if that fails, asks call.Failed whether to pick again ...
//	call.End(code, now)           the backend's status, or
//	call.Fail(err, now)           the proxy's own
//
// It leaves to others what rules say of a call (package traffic), which instances exist (package discovery), whose turn
// it is (package picker), and everything that happens on a connection (packages proxy/relay and proxy/grpcengine) and
// before (proxy/transport).
package proxy

import (
	"context"
	"net"

	"github.com/lbproxy/lbproxy/picker"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

// An Engine accepts callers' connections and relays their calls, as its [Router] decides.
type Engine interface {
	Connector
	// Serve accepts connections on l until Shutdown and relays their calls. It returns nil after Shutdown, and
	// otherwise what went wrong with l. It may be called for several listeners at once.
	Serve(l Listener) error
	// Shutdown stops accepting, tells callers to go away (GOAWAY) and waits for running calls to end. Once ctx
	// is done it fails those that still run, as draining. It returns when none is left.
	Shutdown(ctx context.Context)
}

// A Connector connects to endpoints.
type Connector interface {
	// Dial makes the connection to an endpoint, with its service's settings; see [picker.Dial].
	Dial(*picker.Endpoint, *transport.Live) picker.Conn
	// Reload says that these settings have changed. Connections that are open take over what they can. Calls may be
	// routed while it runs.
	Reload(*transport.Live)
}

// A Listener is where callers come in.
type Listener struct {
	net.Listener
	Service string // that all their calls are for; empty if rules are to decide
}
