// Package filewatch decides when a file is worth reading again: soon after its writer has finished, whether it is written
// in place, by renaming another file over it, or by the links of a Kubernetes ConfigMap.
package filewatch

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
)

const (
	// settle is how long a file must be unchanged before it is read, so that a half-written one is not; settleMax bounds
	// the wait where the directory changes all the time.
	settle    = 100 * time.Millisecond
	settleMax = 10 * settle
	// DefaultPoll is how often to look for changes that the operating system does not announce, as on network file
	// systems, or if the file is a link into another directory.
	DefaultPoll = 5 * time.Second
)

// A Watch watches one file. It belongs to one goroutine.
type Watch struct {
	path      string
	watcher   *fsnotify.Watcher // nil if none can be made
	noWatcher error             // why

	read bool // at least once, with this result:
	data []byte
	err  error
}

// New watches the file at path, which need not exist, until Close.
func New(path string) *Watch {
	w := &Watch{path: path}
	w.watcher, w.noWatcher = fsnotify.NewWatcher()
	return w
}

// Close ends the watch.
func (w *Watch) Close() {
	if w.watcher != nil {
		w.watcher.Close()
	}
}

// Read reads the file, and reports whether it has changed since the last time.
func (w *Watch) Read() (data []byte, changed bool, err error) {
	if w.watcher != nil {
		// Watch the directory, because the file itself may be replaced. Adding it again has no effect while it is
		// watched, and helps if it did not exist before. Do it before reading, so that no change is missed in between.
		_ = w.watcher.Add(filepath.Dir(w.path))
	}
	data, err = os.ReadFile(w.path)
	changed = !w.read || !bytes.Equal(data, w.data) || !sameError(err, w.err)
	w.read, w.data, w.err = true, data, err
	return data, changed, err
}

func sameError(a, b error) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Error() == b.Error()
}

// Run calls look, which should call Read, soon after each change of the file, and every poll, until ctx is done.
func (w *Watch) Run(ctx context.Context, poll time.Duration, log *zap.Logger, look func()) {
	if w.watcher == nil {
		log.Warn("file can only be polled; a higher fs.inotify.max_user_instances may help",
			zap.String("file", w.path), zap.Duration("every", poll), zap.Error(w.noWatcher))
		follow(ctx, nil, nil, poll, look)
		return
	}
	follow(ctx, w.watcher.Events, w.watcher.Errors, poll, look)
}

// follow calls look when events have been followed by none for settle, or have kept coming for settleMax; and at every
// poll, unless events have yet to settle. It returns when ctx is done.
func follow(ctx context.Context, events <-chan fsnotify.Event, lost <-chan error, poll time.Duration, look func()) {
	polls := time.NewTicker(poll)
	defer polls.Stop()
	settled := time.NewTimer(0)
	settled.Stop()
	var due time.Time // when the look after an event can wait no longer; zero without an event
	touched := func() {
		if due.IsZero() {
			due = time.Now().Add(settleMax)
		}
		settled.Reset(min(settle, time.Until(due)))
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			touched()
		case <-lost: // events were lost, perhaps one about the file
			touched()
		case <-settled.C:
			due = time.Time{}
			look()
		case <-polls.C:
			if due.IsZero() {
				look()
			}
		}
	}
}
