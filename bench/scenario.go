//go:build linux

package main

// scenario is a load that callers make.
type scenario struct {
	Name    string `json:"name"`
	What    string `json:"-"` // for people
	Kind    kind   `json:"kind"`
	Conns   int    `json:"conns"`   // connections of the callers
	Workers int    `json:"workers"` // closed loop: how many callers there are; they share the connections evenly
	Rate    int    `json:"rate"`    // open loop: calls per second
	Payload int    `json:"payload"` // bytes of a message
	Unit    string `json:"unit"`    // what cost is counted by: call, message, MiB or connection
}

// kind is what a caller does.
type kind string

const (
	unary    kind = "unary"     // one call after the other
	openLoop kind = "open loop" // calls at a fixed rate, however long they take
	pingPong kind = "ping-pong" // one stream, one message after the other, each answered
	download kind = "download"  // one stream of messages from the backend, as fast as they go
	idle     kind = "idle"      // one call, then nothing
)

var scenarios = []scenario{
	{Name: "U1", What: "one caller, one unary call of 100 B at a time", Kind: unary, Conns: 1, Workers: 1, Payload: 100, Unit: "call"},
	{Name: "U64", What: "64 callers on 4 connections, unary calls of 100 B", Kind: unary, Conns: 4, Workers: 64, Payload: 100, Unit: "call"},
	{Name: "R500", What: "500 unary calls of 100 B per second, evenly spaced, on one connection", Kind: openLoop, Conns: 1, Rate: 500, Payload: 100, Unit: "call"},
	{Name: "PP", What: "16 bidirectional streams on 4 connections, messages of 100 B to and fro", Kind: pingPong, Conns: 4, Workers: 16, Payload: 100, Unit: "message"},
	{Name: "DL", What: "4 streams on 4 connections, messages of 64 KiB from the backend", Kind: download, Conns: 4, Workers: 4, Payload: 64 << 10, Unit: "MiB"},
	{Name: "idle", What: "1,000 connections that have made one call each and rest", Kind: idle, Conns: 1000, Payload: 100, Unit: "connection"},
}

func (s scenario) String() string { return s.Name }

func (s scenario) plural() string {
	if s.Unit == "MiB" {
		return s.Unit
	}
	return s.Unit + "s"
}

// units is how many of s.Unit m holds.
func (s scenario) units(m measurement) float64 {
	if s.Unit == "MiB" {
		return float64(m.Bytes) / (1 << 20)
	}
	return float64(m.Ops)
}
