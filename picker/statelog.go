package picker

import (
	"time"

	"go.uber.org/zap"
)

const (
	// freeLines is how many failures of an endpoint are told at once, and maxQuiet how long it may take later on.
	freeLines = 4
	maxQuiet  = time.Minute
	// settled is how long an endpoint is ready for what fails it next to be another matter.
	settled = time.Minute
)

// stateLog tells of an endpoint's changes what has not just been told: one that fails without end, in whatever ways,
// must not fill the log. What it leaves out comes again if it lasts, since whoever cannot connect tries again.
type stateLog struct {
	state State
	cause string
	lines int       // for failures, since the endpoint was settled
	quiet time.Time // until when there is none for another
}

// told says that an endpoint stands so now, and whether that is worth a line. Before is how long it was ready.
func (l *stateLog) told(state State, cause error, before time.Duration, now time.Time) bool {
	text := ""
	if cause != nil {
		text = cause.Error()
	}
	if state == Ready && text == "" {
		worth := l.state != Ready || l.cause != ""
		l.state, l.cause = Ready, ""
		return worth
	}
	if before >= settled {
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
