// Package filewatch tells when a file is worth reading again. However it is written (in place, by renaming
// another over it, or by the links of a Kubernetes ConfigMap), that is soon after the writer has left it alone.
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
	// settle is how long a file must be left alone before it is read, so that one that is being written is not
	// taken for the whole; settleMax bounds that where the directory is never left alone.
	settle    = 100 * time.Millisecond
	settleMax = 10 * settle
	// DefaultPoll is how often changes are looked for that the operating system does not tell, as on network
	// file systems, or when the file is a link into another directory.
	DefaultPoll = 5 * time.Second
)

// A Watch is on one file. It belongs to one goroutine.
type Watch struct {
	path      string
	watcher   *fsnotify.Watcher // nil where there is none to be had
	noWatcher error             // why

	read bool // at least once; then what came of it:
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

// Read reads the file, and tells whether it is not as it was the last time.
func (w *Watch) Read() (data []byte, changed bool, err error) {
	if w.watcher != nil {
		// The directory is watched, because the file itself may be replaced. Adding it again has no effect
		// while it is watched, and makes up for a directory that did not exist. It comes before the reading,
		// so that no change falls between the two.
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

// Run calls look, which should Read, soon after each change of the file, and every poll, until ctx is done.
func (w *Watch) Run(ctx context.Context, poll time.Duration, log *zap.Logger, look func()) {
	if w.watcher == nil {
		log.Warn("file can only be polled; a higher fs.inotify.max_user_instances may help",
			zap.String("file", w.path), zap.Duration("every", poll), zap.Error(w.noWatcher))
		follow(ctx, nil, nil, poll, look)
		return
	}
	follow(ctx, w.watcher.Events, w.watcher.Errors, poll, look)
}

// follow calls look when events have come and then none for settle, or have come for settleMax on end; and at
// every poll, unless an event has come that is not settled. It returns when ctx is done.
func follow(ctx context.Context, events <-chan fsnotify.Event, lost <-chan error, poll time.Duration, look func()) {
	polls := time.NewTicker(poll)
	defer polls.Stop()
	settled := time.NewTimer(0)
	settled.Stop()
	var due time.Time // when the look after an event may wait no longer; zero if there was none
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
		case <-lost: // nobody knows which: it may have been about the file
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
