// Package filewatch tells what is in a file, again and again, as it changes. However it is written (in place,
// by renaming another over it, or by the links of a Kubernetes ConfigMap), each content is told once, and not
// before the writer has left the file alone for a moment.
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

// Run calls changed with the content of the file at path, or the error of reading it: first as it is now, then
// whenever it is not the same any more. It returns when ctx is done.
func Run(ctx context.Context, path string, poll time.Duration, log *zap.Logger, changed func(data []byte, err error)) {
	w := &watch{path: path, changed: changed}
	var events <-chan fsnotify.Event
	var lost <-chan error
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("file can only be polled; a higher fs.inotify.max_user_instances may help",
			zap.String("file", path), zap.Duration("every", poll), zap.Error(err))
	} else {
		defer watcher.Close()
		events, lost = watcher.Events, watcher.Errors
	}
	// The directory is watched, because the file itself may be replaced. Adding it again has no effect while
	// it is watched, and makes up for a directory that did not exist.
	look := func() {
		if watcher != nil {
			_ = watcher.Add(filepath.Dir(path))
		}
		w.read() // after the watch has begun, so that no change falls between the two
	}
	look()
	follow(ctx, events, lost, poll, look)
}

type watch struct {
	path    string
	changed func(data []byte, err error)
	told    bool
	data    []byte
	err     error
}

func (w *watch) read() {
	data, err := os.ReadFile(w.path)
	if w.told && bytes.Equal(data, w.data) && sameError(err, w.err) {
		return
	}
	w.told, w.data, w.err = true, data, err
	w.changed(data, err)
}

func sameError(a, b error) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Error() == b.Error()
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
