package transport

import (
	"sync/atomic"

	"github.com/lbproxy/lbproxy/traffic"
)

// Upstream is the settings of connections to one service's endpoints.
type Upstream struct{ Keepalive traffic.Keepalive }

// Live is a service's upstream settings as they are now. Whoever makes a connection looks at them then; those that are
// open hear of a change by their engine's Reload.
type Live struct{ current atomic.Pointer[Upstream] }

// NewLive returns settings that hold from the start.
func NewLive(u Upstream) *Live {
	l := new(Live)
	l.current.Store(&u)
	return l
}

// Load returns the settings that hold now.
func (l *Live) Load() *Upstream { return l.current.Load() }

// Store replaces the settings, and says whether that changes them.
func (l *Live) Store(u Upstream) (changed bool) { return *l.current.Swap(&u) != u }
