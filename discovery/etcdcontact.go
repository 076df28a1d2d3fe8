package discovery

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// contact is whether etcd confirms what is known of the services. What befalls one mostly befalls all of them, so it
// is logged once for all.
type contact struct {
	log *zap.Logger

	mu    sync.Mutex             // protects:
	lost  map[*follower]struct{} // whose state etcd cannot confirm now
	since time.Time              // when the first was lost
	most  int                    // at a time, since then
	said  map[string]struct{}    // the reasons that were logged since then

	mute atomic.Pointer[string] // says what is done about an etcd that never tells its progress; nil if it does
}

// mostReasons are logged from the first that is lost to the last that is found again.
const mostReasons = 5

func newContact(log *zap.Logger) *contact {
	return &contact{log: log, lost: map[*follower]struct{}{}, said: map[string]struct{}{}}
}

// lose notes that f's state cannot be confirmed. The first one of a trouble is logged, and other reasons for it.
func (c *contact) lose(f *follower, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lost) == 0 {
		c.since, c.most = time.Now(), 0
		clear(c.said)
	}
	c.lost[f] = struct{}{}
	c.most = max(c.most, len(c.lost))
	reason := err.Error()
	if _, ok := c.said[reason]; ok || len(c.said) == mostReasons {
		return
	}
	message := "instances cannot be confirmed; the last known ones stay"
	if len(c.said) > 0 {
		message = "instances still cannot be confirmed"
	}
	c.said[reason] = struct{}{}
	c.log.Warn(message, zap.String("service", f.table.service), zap.Int64("revision", f.revision), zap.Error(err))
}

// regain notes that f's state is confirmed again. The last one is logged.
func (c *contact) regain(f *follower) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.lost, f)
	if len(c.lost) == 0 {
		c.log.Info("instances are confirmed again", zap.Duration("after", time.Since(c.since)), zap.Int("services", c.most))
	}
}

// forget drops f, which is followed no more.
func (c *contact) forget(f *follower) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.lost, f)
}

// setMute notes whether etcd answers requests for its progress. A change is logged.
func (c *contact) setMute(mute bool, limits etcdLimits) {
	if mute == (c.mute.Load() != nil) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case mute == (c.mute.Load() != nil): // someone else was faster
	case mute:
		every := 2 * limits.silence()
		c.mute.Store(new(fmt.Sprintf("etcd answers no requests for its watches' progress, as etcd's grpc-proxy does not: "+
			"what is known is compared with the registry by count and newest revision, every %s", every)))
		c.log.Warn("etcd answers no requests for its watches' progress, as etcd's grpc-proxy does not; "+
			"what is known is compared with the registry by count and newest revision instead", zap.Duration("every", every))
	default:
		c.mute.Store(nil)
		c.log.Info("etcd answers requests for its watches' progress")
	}
}

// note is what people should know of how etcd confirms what is known; mostly nothing.
func (c *contact) note() string {
	if note := c.mute.Load(); note != nil {
		return *note
	}
	return ""
}

// confirm notes that etcd has confirmed the table at a time.
func (f *follower) confirm(at time.Time) {
	f.confirmed.Store(&at)
	f.metrics.Confirmed(max(f.revision, f.verified))
	if f.trouble.Swap(nil) != nil {
		f.e.contact.regain(f)
	}
}

// lost notes that the table can no longer be confirmed.
func (f *follower) lost(err error) {
	f.trouble.Store(&err)
	f.metrics.Lost()
	f.e.contact.lose(f, err)
}

func (f *follower) standing() (s Standing) {
	if at := f.confirmed.Load(); at != nil {
		s.Confirmed = *at
	}
	if err := f.trouble.Load(); err != nil {
		s.Err = *err
	}
	s.Note = f.e.contact.note()
	return s
}
