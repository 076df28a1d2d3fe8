package transport

import (
	"errors"
	"net"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/metrics"
)

const (
	// minAcceptPause and maxAcceptPause are how long accepting rests where the system has nothing left for it.
	minAcceptPause = 10 * time.Millisecond
	maxAcceptPause = 200 * time.Millisecond
)

// Accept accepts a caller, which has a descriptor of its own until CallerGone. Callers for which there is none are
// turned away: better than to let them wait for an answer that does not come. They are not told why, as those that
// have had SETTINGS connect anew at once, while others wait longer from time to time. Accept returns the listener's
// error when that accepts no more.
func (d *Descriptors) Accept(l net.Listener) (net.Conn, error) {
	for pause := minAcceptPause; ; {
		c, err := l.Accept()
		switch {
		case err == nil && d.admit():
			FindDead(c)
			return c, nil
		case err == nil:
			c.Close()
		case isScarcity(err):
			d.AcceptFailed(l.Addr(), err)
			time.Sleep(pause)
			pause = min(2*pause, maxAcceptPause)
		default:
			return nil, err
		}
	}
}

// AcceptFailed says that a caller could not be taken in.
func (d *Descriptors) AcceptFailed(at net.Addr, err error) {
	d.metrics.Short(metrics.ShortageAccept, 1)
	d.log.Error("callers cannot be accepted for now; if it is for file descriptors, raise RLIMIT_NOFILE "+
		"(LimitNOFILE in a systemd unit, ulimit -n elsewhere)",
		zap.Stringer("address", at), zap.Int("limit", d.limit), zap.Error(err))
}

// isScarcity says that accepting fails for want of something that may come back (accept(2)).
func isScarcity(err error) bool {
	var temporary interface{ Temporary() bool } // EMFILE, ENFILE and some more
	return errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM) ||
		errors.As(err, &temporary) && temporary.Temporary()
}
