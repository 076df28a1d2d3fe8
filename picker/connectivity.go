package picker

import "time"

// State is what an engine knows of its connection to an endpoint.
type State uint8

// The states. An endpoint that fails stays Failed, however often it is tried again, until it is Ready.
const (
	Connecting State = iota
	Ready
	Failed
)

func (s State) String() string {
	switch s {
	case Ready:
		return "ready"
	case Failed:
		return "failed"
	default:
		return "connecting"
	}
}

// Dial starts to connect to an endpoint and returns at once. SetState may be called from any goroutine, and
// before Dial returns.
type Dial func(*Endpoint) Conn

// A Conn is an engine's connection to one endpoint, or several of them. It connects on its own, as often as
// needed, and reports its state by SetState. None of its methods may block.
type Conn interface {
	// Renew says that the instance has been registered anew, so another process may be behind its address.
	// Whatever kept a connection from being made may be over, so it is tried again at once. An existing one may
	// lead nowhere, so calls go to a new one as soon as there is one, and the old one ends with its last call.
	Renew()
	// Close is called once, when the endpoint has left its service and its last call has ended.
	Close()
}

// connectivity is what the engine has reported of its connection to an endpoint.
type connectivity struct {
	state State
	since time.Time // when state became what it is
	log   stateLog
}

// failure is why a connection to an endpoint could not be made, or was lost.
type failure struct {
	err   error
	state State // of the endpoint then
	at    time.Time
}

// SetState is how the engine reports the state of its connection. Cause says why it failed; an endpoint that is ready
// may have failed to get one more connection, or a new one in the old one's place.
func (e *Endpoint) SetState(state State, cause error) {
	e.pool.change(func() bool {
		before := e.eligibility()
		e.setState(state, cause, time.Now())
		return e.eligibility() != before
	})
}

func (e *Endpoint) setState(state State, cause error, now time.Time) {
	if cause != nil {
		e.failure.Store(&failure{cause, state, now})
		e.pool.failures.Add(1)
	}
	c := &e.connectivity
	changed, readyFor := state != c.state, time.Duration(0)
	if c.state == Ready {
		readyFor = now.Sub(c.since)
	}
	if changed {
		c.state, c.since = state, now
		e.metrics.SetReady(state == Ready)
	}
	// The connection of one that leaves is expected to end.
	if (changed || cause != nil) && !e.leaving && c.log.worth(state, cause, readyFor, now) {
		e.logState(cause)
	}
}
