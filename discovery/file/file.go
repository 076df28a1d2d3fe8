// Package file is a [discovery.Source] of the instances that a YAML file lists, for hosts without a registry.
//
// It decides what may stand in the file, and what holds while the file is missing or wrong. It leaves to package
// filewatch how changes are noticed.
package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/internal/filewatch"
	"github.com/lbproxy/lbproxy/metrics"
)

var errClosed = errors.New("file source is closed")

// A Source publishes the instances that its file lists:
//
//	services:
//	  hello:
//	    - {addr: "127.0.0.1:1001", version: "1.0.0", weight: 10}
//
// Changes of the file take effect within moments, however it is written: in place, by renaming another over it,
// or by the links of a Kubernetes ConfigMap. A file that cannot be read or holds faults changes nothing; until
// it could be read for the first time nothing is published. Revisions of snapshots count the contents loaded.
type Source struct {
	// Immutable:
	path    string
	metrics *metrics.Discovery
	log     *zap.Logger
	end     context.CancelFunc
	ended   chan struct{} // closed when watch has returned

	latest atomic.Pointer[reading]

	// Owned by load:
	watch *filewatch.Watch
}

// A reading is what is known of the file once it has been read.
type reading struct {
	revision int64 // counts contents loaded; 0 before the first
	services map[string][]discovery.Instance
	read     time.Time     // when it could last be read; zero if it never could
	err      error         // of the latest reading; the rest is then what held before it
	next     chan struct{} // closed when this is no longer the latest
}

// New reads the file at path and watches it until Close. A file that is missing or broken is logged, and
// waited for.
func New(path string, m *metrics.Discovery, log *zap.Logger) *Source {
	return newSource(path, m, log, filewatch.DefaultPoll)
}

// Check says everything that is wrong with the file at path; nil if nothing is.
func Check(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("services file: %w", err)
	}
	_, err = parseInstances(path, data)
	return err
}

func newSource(path string, m *metrics.Discovery, log *zap.Logger, poll time.Duration) *Source {
	ctx, end := context.WithCancel(context.Background())
	f := &Source{
		path: path, metrics: m, log: log.With(zap.String("file", path)),
		watch: filewatch.New(path), end: end, ended: make(chan struct{}),
	}
	f.latest.Store(&reading{next: make(chan struct{})})
	f.load()
	go func() { // ends with ctx, see Close
		defer close(f.ended)
		defer f.watch.Close()
		f.watch.Run(ctx, poll, f.log, f.load)
	}()
	return f
}

// Close ends the watching and every Run.
func (f *Source) Close() {
	f.end()
	<-f.ended
}

// Probe returns nil if the file could be read since the start, and otherwise why it could not.
func (f *Source) Probe(context.Context) error {
	if s := f.latest.Load(); s.revision == 0 {
		return s.err
	}
	return nil
}

// Run implements [discovery.Source]. It returns an error of its own only after Close.
func (f *Source) Run(ctx context.Context, service string, publish func(discovery.Snapshot)) error {
	watch := f.metrics.Watch(service)
	defer watch.Forget()
	var published discovery.Snapshot
	for {
		s := f.latest.Load()
		if s.revision > published.Revision {
			instances := s.services[service]
			if published.Revision == 0 || !slices.Equal(instances, published.Instances) {
				publish(discovery.Snapshot{Service: service, Revision: s.revision, Instances: instances})
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
			return errClosed
		}
	}
}

// Standing implements [discovery.Reporter]: the file says the same of all its services.
func (f *Source) Standing(string) discovery.Standing {
	s := f.latest.Load()
	return discovery.Standing{Confirmed: s.read, Err: s.err}
}

// load reads the file and wakes every Run.
func (f *Source) load() {
	old := f.latest.Load()
	s := &reading{revision: old.revision, services: old.services, read: old.read, next: make(chan struct{})}
	data, changed, err := f.watch.Read()
	switch {
	case err != nil:
		s.err = err
	case !changed:
		s.err = old.err
	default:
		var services map[string][]discovery.Instance
		if services, s.err = parseInstances(f.path, data); s.err == nil {
			s.revision, s.services = old.revision+1, services
		}
	}
	if s.err == nil {
		s.read = time.Now()
	}
	f.report(old, s)
	f.latest.Store(s)
	close(old.next)
}

// report tells about a reading that went otherwise than the one before it.
func (f *Source) report(old, s *reading) {
	switch {
	case s.err != nil && (old.err == nil || old.err.Error() != s.err.Error()):
		f.metrics.FileFailed()
		f.log.Error("services file cannot be used; what was known before stays", zap.Int64("revision", s.revision), zap.Error(s.err))
	case s.err == nil && (s.revision > old.revision || old.err != nil):
		f.metrics.FileLoaded()
		instances := 0
		for _, of := range s.services {
			instances += len(of)
		}
		f.log.Info("services file loaded", zap.Int64("revision", s.revision),
			zap.Int("services", len(s.services)), zap.Int("instances", instances))
	}
}
