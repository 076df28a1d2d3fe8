// Package logsample decides how often the same message is logged. Zap's own sampler does that too, with tables of
// 448 KiB.
package logsample

import (
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// First limits a logger, and loggers derived from it, to n of each message per interval. Messages differ by text and
// level, not by fields.
func First(n int, interval time.Duration) zap.Option {
	return zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return &sampled{c, &counts{n: n, interval: interval, seen: map[message]int{}}}
	})
}

type sampled struct {
	zapcore.Core
	counts *counts
}

// Check implements [zapcore.Core].
func (s *sampled) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !s.Enabled(e.Level) || !s.counts.allow(e) {
		return ce
	}
	return s.Core.Check(e, ce)
}

// With implements [zapcore.Core].
func (s *sampled) With(fields []zapcore.Field) zapcore.Core {
	return &sampled{s.Core.With(fields), s.counts}
}

type message struct {
	level zapcore.Level
	text  string
}

type counts struct {
	// Immutable:
	n        int
	interval time.Duration

	mu    sync.Mutex // protects:
	began time.Time  // when the interval did
	seen  map[message]int
}

func (c *counts) allow(e zapcore.Entry) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if passed := e.Time.Sub(c.began); passed >= c.interval || passed < 0 {
		c.began = e.Time
		clear(c.seen)
	}
	m := message{e.Level, e.Message}
	c.seen[m]++
	return c.seen[m] <= c.n
}
