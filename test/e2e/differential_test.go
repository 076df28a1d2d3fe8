package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/configs"
)

// A difference is something that an engine does not keep of a call: lines of what one side sees.
type difference struct {
	in    string // a call's name; empty: any
	at    side
	lines string // how they begin; empty: all
	why   string
}

type side string

const (
	atCaller  side = "the caller"
	atBackend side = "the backend"
)

// differencesOfRelay is what a caller or a backend can see of the relay.
var differencesOfRelay = []difference{
	{in: wireReset(http2.ErrCodeInternal).name, at: atCaller, why: "a reset that says nothing to act on becomes a status that names the instance"},
}

// differencesOfGRPCProxy is what a caller or a backend can see of the reference engine.
var differencesOfGRPCProxy = []difference{
	{at: atBackend, lines: "metadata user-agent", why: "grpc-go's client sends its own"},
	{at: atBackend, lines: "metadata grpc-accept-encoding", why: "the answer is decompressed here, so it must be in an encoding that grpc-go knows"},
	{at: atBackend, lines: "metadata in this order", why: "grpc-go keeps metadata in a map"},
	{at: atCaller, lines: "header in this order", why: "grpc-go keeps metadata in a map"},
	{at: atCaller, lines: "trailer in this order", why: "grpc-go keeps metadata in a map"},
	{in: unknownEncoding, at: atCaller, why: "grpc-go's server refuses what it cannot decompress"},
	{in: unknownEncoding, at: atBackend, why: "grpc-go's server refuses what it cannot decompress"},
}

// Whatever caller and backend do, each sees what it would see without a proxy between them, save the engine's
// known differences, each of which there must be.
func TestDifferential(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		s := newStage(t, w)
		for _, e := range slices.Concat(exchanges, statuses()) {
			t.Run(e.name, func(t *testing.T) {
				caller, backend := s.compare(t, e.exchange)
				mustSee(t, "the caller", caller, e.callerSees...)
				mustSee(t, "the backend", backend, e.backendSees...)
			})
		}
		wire := newWire(t, w, s.judge)
		for _, c := range wireCalls {
			if c.noGRPC && w.engine.name != configs.EngineRelay {
				continue
			}
			t.Run(c.name, func(t *testing.T) { wire.compare(t, c) })
		}
		s.mustHaveMetAll(t)
	})
}

// judge compares what is seen through an engine with what is seen without, and keeps which differences it met.
type judge struct {
	differs []difference
	met     map[difference]bool
}

func newJudge(e engine) *judge { return &judge{e.differs, map[difference]bool{}} }

// mustAgree fails the test where a side sees something through the proxy that it does not see without it.
func (j *judge) mustAgree(t *testing.T, call string, at side, proxied, direct []string) {
	t.Helper()
	for _, d := range j.differs {
		if d.at != at || d.in != "" && d.in != call {
			continue
		}
		about := func(line string) bool { return strings.HasPrefix(line, d.lines) }
		if !slices.Equal(only(proxied, about), only(direct, about)) {
			j.met[d] = true
		}
		proxied, direct = slices.DeleteFunc(slices.Clone(proxied), about), slices.DeleteFunc(slices.Clone(direct), about)
	}
	if diff := cmp.Diff(proxied, direct, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s sees (-through the proxy +without):\n%s", at, diff)
	}
}

func only(lines []string, about func(string) bool) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return !about(line) })
}

// mustHaveMetAll fails the test if a difference is listed that there is not.
func (j *judge) mustHaveMetAll(t *testing.T) {
	t.Helper()
	for _, d := range j.differs {
		if !j.met[d] {
			t.Errorf("%s no longer sees a difference in %q of %q, which is said to be because %s: take it off the list",
				d.at, d.lines, d.in, d.why)
		}
	}
}
