package discovery

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/metrics"
)

const (
	// fileSettle is how long a file must be left alone before it is read, so that one that is being written is
	// not taken for the whole; fileSettleMax bounds that where the directory is never left alone.
	fileSettle    = 100 * time.Millisecond
	fileSettleMax = 10 * fileSettle
	// filePoll is for changes that the operating system does not tell, as on network file systems, or when the
	// file is a link into another directory.
	filePoll = 5 * time.Second
)

var errFileClosed = errors.New("file source is closed")

// File is a [Source] of the instances that a YAML file lists:
//
//	services:
//	  hello:
//	    - {addr: "127.0.0.1:1001", version: "1.0.0", weight: 10}
//
// Changes of the file take effect within moments, however it is written: in place, by renaming another over it,
// or by the links of a Kubernetes ConfigMap. A file that cannot be read or holds faults changes nothing; until
// it could be read for the first time nothing is published. Revisions of snapshots count the contents loaded.
type File struct {
	// Immutable:
	path    string
	metrics *metrics.Metrics
	log     *zap.Logger
	end     context.CancelFunc
	ended   chan struct{} // closed when watch has returned

	state atomic.Pointer[fileState]

	// Owned by load:
	data   []byte // read last, nil before that; parsed, with the outcome:
	parsed map[string][]Instance
	err    error
}

// fileState is what is known of the file from one reading to the next.
type fileState struct {
	revision int64 // counts contents loaded; 0 before the first
	services map[string][]Instance
	err      error         // of the latest reading; the rest is then what held before it
	next     chan struct{} // closed when this is no longer the latest
}

// NewFile reads the file at path and watches it until Close. A file that is missing or broken is logged, and
// waited for.
func NewFile(path string, m *metrics.Metrics, log *zap.Logger) *File {
	return newFile(path, m, log, filePoll)
}

func newFile(path string, m *metrics.Metrics, log *zap.Logger, poll time.Duration) *File {
	ctx, end := context.WithCancel(context.Background())
	f := &File{
		path: path, metrics: m, log: log.With(zap.String("file", path)),
		end: end, ended: make(chan struct{}),
	}
	f.state.Store(&fileState{next: make(chan struct{})})
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		watcher = nil
		f.log.Warn("services file can only be polled; a higher fs.inotify.max_user_instances may help",
			zap.Duration("every", poll), zap.Error(err))
	}
	f.watchDir(watcher)
	f.load()                        // after the watch has begun, so that no change falls between the two
	go f.follow(ctx, watcher, poll) // ends with ctx, see Close
	return f
}

// Close ends the watching and every Run.
func (f *File) Close() {
	f.end()
	<-f.ended
}

// Probe returns nil if the file could be read since the start, and otherwise why it could not.
func (f *File) Probe(context.Context) error {
	if s := f.state.Load(); s.revision == 0 {
		return s.err
	}
	return nil
}

// Run implements [Source]. It returns an error of its own only after Close.
func (f *File) Run(ctx context.Context, service string, publish func(Snapshot)) error {
	watch := f.metrics.Watch(service)
	defer watch.Forget()
	var published Snapshot
	for {
		s := f.state.Load()
		if s.revision > published.Revision {
			instances := s.services[service]
			if published.Revision == 0 || !slices.Equal(instances, published.Instances) {
				publish(Snapshot{Service: service, Revision: s.revision, Instances: instances})
				watch.SetInstances(len(instances))
			}
			published.Revision, published.Instances = s.revision, instances
		}
		if s.revision > 0 && s.err == nil {
			watch.Confirmed(s.revision)
		}
		select {
		case <-s.next:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.ended:
			return errFileClosed
		}
	}
}

// watchDir watches the file's directory, because the file itself may be replaced. It has no effect while the
// directory is watched, and fails while it does not exist, which the next poll makes up for.
func (f *File) watchDir(watcher *fsnotify.Watcher) {
	if watcher != nil {
		_ = watcher.Add(filepath.Dir(f.path))
	}
}

// follow loads the file after each change and at each poll.
func (f *File) follow(ctx context.Context, watcher *fsnotify.Watcher, poll time.Duration) {
	defer close(f.ended)
	var changes <-chan fsnotify.Event
	var lost <-chan error
	if watcher != nil {
		defer watcher.Close()
		changes, lost = watcher.Events, watcher.Errors
	}
	followChanges(ctx, changes, lost, poll, func() {
		f.watchDir(watcher)
		f.load()
	})
}

// followChanges calls load when changes have come and then none for fileSettle, or have come for fileSettleMax
// on end; and at every poll, unless a change has come that is not settled. It returns when ctx is done.
func followChanges(ctx context.Context, changes <-chan fsnotify.Event, lost <-chan error, poll time.Duration, load func()) {
	polls := time.NewTicker(poll)
	defer polls.Stop()
	settled := time.NewTimer(0)
	settled.Stop()
	var due time.Time // when the load after a change may wait no longer; zero if there was none
	changed := func() {
		if due.IsZero() {
			due = time.Now().Add(fileSettleMax)
		}
		settled.Reset(min(fileSettle, time.Until(due)))
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
			changed()
		case <-lost: // nobody knows what: it may have been a change of the file
			changed()
		case <-settled.C:
			due = time.Time{}
			load()
		case <-polls.C:
			if due.IsZero() {
				load()
			}
		}
	}
}

// load reads the file and wakes every Run.
func (f *File) load() {
	old := f.state.Load()
	s := &fileState{revision: old.revision, services: old.services, next: make(chan struct{})}
	data, err := os.ReadFile(f.path)
	switch {
	case err != nil:
		s.err = err
	case f.data != nil && bytes.Equal(data, f.data):
		s.err = f.err
	default:
		f.data = data
		f.parsed, f.err = parseInstances(f.path, data)
		if s.err = f.err; f.err == nil {
			s.revision, s.services = old.revision+1, f.parsed
		}
	}
	f.report(old, s)
	f.state.Store(s)
	close(old.next)
}

// report tells about a reading that went otherwise than the one before it.
func (f *File) report(old, s *fileState) {
	switch {
	case s.err != nil && (old.err == nil || old.err.Error() != s.err.Error()):
		f.metrics.DiscoveryFileFailed()
		f.log.Error("services file cannot be used; what was known before stays", zap.Int64("revision", s.revision), zap.Error(s.err))
	case s.err == nil && (s.revision > old.revision || old.err != nil):
		instances := 0
		for _, of := range s.services {
			instances += len(of)
		}
		f.log.Info("services file loaded", zap.Int64("revision", s.revision),
			zap.Int("services", len(s.services)), zap.Int("instances", instances))
	}
}
