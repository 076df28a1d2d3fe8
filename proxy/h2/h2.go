// Package h2 is HTTP/2 (RFC 9113) as bytes: frames, settings, flow-control windows, and errors by how much of
// a connection they end. It does no I/O, starts no goroutine, reads no clock and keeps no state of a
// connection: which frames may come when, and what they lead to, is for the package that drives it to decide.
//
// Parsing returns parts of its input and appending grows slices of the caller's, so neither allocates.
package h2

// ClientPreface is what a client sends first (section 3.4).
const ClientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
