package registry

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// contact is whether etcd confirms what is known of the services. Trouble mostly affects all of them, so it is logged
// once for all.
type contact struct {
	log *zap.Logger

	mu    sync.Mutex          // protects:
	lost  map[*watch]struct{} // whose state etcd cannot confirm now
	since time.Time           // when the first was lost
	most  int                 // at a time, since then
	said  map[string]struct{} // the reasons that were logged since then
}

// mostReasons is how many reasons are logged until all services are confirmed again.
const mostReasons = 5

func newContact(log *zap.Logger) *contact {
	return &contact{log: log, lost: map[*watch]struct{}{}, said: map[string]struct{}{}}
}

// lose notes that w's state cannot be confirmed. The first one is logged, and then each new reason.
func (c *contact) lose(w *watch, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lost) == 0 {
		c.since, c.most = time.Now(), 0
		clear(c.said)
	}
	c.lost[w] = struct{}{}
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
	c.log.Warn(message, zap.String("service", w.table.service), zap.Int64("revision", w.revision), zap.Error(err))
}

// regain notes that w's state is confirmed again. The last one is logged.
func (c *contact) regain(w *watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.lost, w)
	if len(c.lost) == 0 {
		c.log.Info("instances are confirmed again", zap.Duration("after", time.Since(c.since)), zap.Int("services", c.most))
	}
}

// forget drops w, which has ended.
func (c *contact) forget(w *watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.lost, w)
}
