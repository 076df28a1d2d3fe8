package picker

import (
	"time"

	"go.uber.org/zap"
)

const (
	// freeLines is how many failures of an endpoint are logged at once; later ones wait for up to maxQuiet.
	freeLines = 4
	maxQuiet  = time.Minute
	// settled is how long an endpoint must have been ready for its next failure to count as a new matter.
	settled = time.Minute
)

// stateLog decides which changes of an endpoint's state are logged: one that keeps failing, in whatever ways, must not
// fill the log. Nothing that lasts is lost, since an engine that cannot connect tries again and reports again.
type stateLog struct {
	state State
	cause string
	lines int       // for failures, since the endpoint was settled
	quiet time.Time // until when there is none for another
}

// worth reports whether a state is worth a line, and assumes that it gets one. ReadyFor is how long the endpoint was
// ready before.
func (l *stateLog) worth(state State, cause error, readyFor time.Duration, now time.Time) bool {
	text := ""
	if cause != nil {
		text = cause.Error()
	}
	if state == Ready && text == "" {
		recovered := l.state != Ready || l.cause != ""
		l.state, l.cause = Ready, ""
		return recovered
	}
	if readyFor >= settled {
		l.lines, l.quiet = 0, time.Time{}
	}
	if state == l.state && text == l.cause || now.Before(l.quiet) {
		return false
	}
	l.state, l.cause = state, text
	if l.lines++; l.lines >= freeLines {
		l.quiet = now.Add(min(time.Second<<min(l.lines-freeLines, 10), maxQuiet))
	}
	return true
}

func (e *Endpoint) logState(cause error) {
	log := e.pool.log.With(zap.String("endpoint", e.addr))
	switch {
	case e.connectivity.state == Ready && cause == nil:
		log.Info("endpoint is ready")
	case e.connectivity.state == Ready:
		log.Warn("endpoint is ready, but a further connection to it cannot be made", zap.Error(cause))
	case e.connectivity.state == Failed:
		log.Warn("endpoint cannot be reached", zap.Error(cause))
	default:
		log.Info("endpoint has lost its connection and connects again", zap.Error(cause))
	}
}
