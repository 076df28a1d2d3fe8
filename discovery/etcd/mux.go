package etcd

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/lbproxy/lbproxy/metrics"
)

// A Mux follows many prefixes. Their watches share one stream, and the reads beside them a few slots, so that following
// more does not mean more load on etcd at a time.
type Mux struct {
	// Limits may be changed before the first Follow.
	Limits Limits

	// Immutable:
	client  *Client
	metrics *metrics.Discovery
	log     *zap.Logger
	slots   chan struct{} // one for each read that may be under way; see withSlot

	glances singleflight.Group
	glanced atomic.Pointer[glance]
	slow    atomic.Int32           // glances in a row that took too long
	mute    atomic.Pointer[string] // what is done about an etcd that never tells its progress; nil if it does

	mu     sync.Mutex   // protects:
	stream *watchStream // the current one, for watches that start now; nil if there is none
	failed int          // streams in a row that were given up because they did not tell what happened
	// and every stream's watchers
}

// Limits are how long things may take, and how much there may be of them.
type Limits struct {
	Progress     time.Duration // how long a stream may be quiet before etcd is asked for its progress
	Answer       time.Duration // how long etcd may take to answer
	MuteAsk      time.Duration // how often etcd is asked for its progress that never tells it
	Audit        time.Duration // how often the watched state is compared with etcd's
	ResumedAudit time.Duration // within which time that is done after a lost watch
	Spread       time.Duration // within which time processes list again that have the same reason to
	Page         int64         // keys in one response to a list
}

// silence is how long nothing may come of a watch before etcd is asked by other means.
func (l *Limits) silence() time.Duration { return l.Progress + l.Answer }

// maxReads is how many reads may be under way at a time.
const maxReads = 8

// NewMux returns a Mux over client that counts in m what becomes of its watches.
func NewMux(client *Client, m *metrics.Discovery, log *zap.Logger) *Mux {
	return &Mux{
		Limits: Limits{
			Progress:     10 * time.Second,
			Answer:       5 * time.Second,
			MuteAsk:      time.Minute,
			Audit:        5 * time.Minute,
			ResumedAudit: time.Minute,
			Spread:       3 * time.Second,
			Page:         1000,
		},
		client: client, metrics: m, log: log, slots: make(chan struct{}, maxReads),
	}
}

// Probe reports why etcd does not answer. It reads below the root, which the user must be allowed to, and which takes a
// majority of the members.
func (m *Mux) Probe(ctx context.Context) error {
	_, err := m.request(ctx, m.client.RequestTimeout(), m.client.Root()+"/", clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("etcd at %s does not answer; check the endpoints, TLS and user, and that most members run: %w",
			m.client.Endpoints(), err)
	}
	return nil
}

// Note is what people should know about how this etcd is followed; mostly nothing.
func (m *Mux) Note() string {
	if note := m.mute.Load(); note != nil {
		return *note
	}
	return ""
}

// setMute notes whether etcd answers requests for its progress. A change is logged.
func (m *Mux) setMute(mute bool) {
	if mute == (m.mute.Load() != nil) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case mute == (m.mute.Load() != nil): // someone else was faster
	case mute:
		every := 2 * m.Limits.silence()
		m.mute.Store(new(fmt.Sprintf("etcd answers no requests for its watches' progress, as etcd's grpc-proxy does not: "+
			"what is known is compared with the registry by count and newest revision, every %s", every)))
		m.log.Warn("etcd answers no requests for its watches' progress, as etcd's grpc-proxy does not; "+
			"what is known is compared with the registry by count and newest revision instead", zap.Duration("every", every))
	default:
		m.mute.Store(nil)
		m.log.Info("etcd answers requests for its watches' progress")
	}
}
