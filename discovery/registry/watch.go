package registry

import (
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/metrics"
)

// A watch keeps one service's snapshots up to date: the state of one Run, and the [etcd.Handler] of it.
type watch struct {
	// Immutable:
	contact *contact
	metrics *metrics.Watch
	log     *zap.Logger
	publish func(discovery.Snapshot)

	confirmed atomic.Pointer[time.Time] // when etcd last confirmed the table
	trouble   atomic.Pointer[error]     // why it cannot now; nil if it can

	// Owned by Run:
	table     *table
	revision  int64 // that etcd confirmed last
	published *discovery.Snapshot
}

// Put implements [etcd.Handler].
func (w *watch) Put(e etcd.Entry) {
	if f := w.table.put(e, time.Now()); f != nil {
		w.report(f)
	}
}

// Delete implements [etcd.Handler].
func (w *watch) Delete(key string) { w.table.delete(key) }

// Commit implements [etcd.Handler]. It publishes the table if it differs from the last snapshot, and is due again when
// the good value of a poisoned entry expires. Without a watch such values stay: that is no time to let go of instances.
func (w *watch) Commit(revision int64) (again time.Time) {
	instances, again := w.table.instances(time.Now())
	poisoned := w.table.poisoned()
	w.metrics.SetInstances(len(instances))
	w.metrics.SetPoisoned(len(poisoned))
	same := w.published != nil && slices.Equal(instances, w.published.Instances)
	if same && slices.Equal(poisoned, w.published.Poisoned) {
		return again
	}
	w.published = &discovery.Snapshot{Service: w.table.service, Revision: revision, Instances: instances, Poisoned: poisoned}
	if !same {
		w.log.Info("instances changed", zap.Int64("revision", revision), zap.Int("instances", len(instances)))
	}
	w.publish(*w.published)
	return again
}

// Confirmed implements [etcd.Handler].
func (w *watch) Confirmed(revision int64, at time.Time) {
	w.revision = revision
	w.confirmed.Store(&at)
	w.metrics.Confirmed(revision)
	if w.trouble.Swap(nil) != nil {
		w.contact.regain(w)
	}
}

// Lost implements [etcd.Handler].
func (w *watch) Lost(why error) {
	w.trouble.Store(&why)
	w.metrics.Lost()
	w.contact.lose(w, why)
}

func (w *watch) standing() (s discovery.Standing) {
	if at := w.confirmed.Load(); at != nil {
		s.Confirmed = *at
	}
	if err := w.trouble.Load(); err != nil {
		s.Err = *err
	}
	return s
}

func (w *watch) report(f *fault) {
	log := w.log.With(zap.String("key", f.key), zap.Int64("revision", f.revision))
	if f.err != nil {
		w.metrics.Poisoned()
		log.Warn("registry entry is skipped", zap.Bool("last_good_value_kept", f.kept), zap.Error(f.err))
		return
	}
	w.metrics.Mismatched()
	log.Warn("registry entry's value contradicts its key, which wins", zap.String("value_says", f.mismatch))
}
