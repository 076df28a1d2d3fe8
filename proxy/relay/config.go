package relay

import (
	"runtime"
	"time"
)

// Config is how an [Engine] is dimensioned, and what its peers can make it hold and do.
type Config struct {
	// Workers is how many workers share the callers' connections. Each has its own lock and its own
	// connections to the backends, and carries what about one core can.
	Workers int
	// Memory is how many bytes of calls' fields and DATA all workers together hold. Beyond it, the callers
	// that have most of it lose calls.
	Memory int64
	// MaxStreams is how many streams a caller may have at a time on a connection.
	MaxStreams uint32
	// MaxHeaderList is the longest field block that is taken, as SETTINGS_MAX_HEADER_LIST_SIZE counts.
	MaxHeaderList uint32
	// MaxGlitches is how many useless frames (PING, empty DATA, ...) a peer may send in a row within ten seconds,
	// and how many streams it may reset in that time.
	MaxGlitches int
	// MaxUnread is how many bytes may wait to be written to a peer that does not read.
	MaxUnread int
	// MaxConnections is how many connections a worker makes to an endpoint whose backend takes no more
	// streams on those that it has.
	MaxConnections int
	// MaxConnectionAge is when callers are told to connect anew; 0 for never.
	MaxConnectionAge time.Duration
	// HandshakeTimeout is how long a caller may take until its preface and SETTINGS have come.
	HandshakeTimeout time.Duration
	// Admin is where health checks are answered, for those that ask at the port of calls.
	Admin string
}

// cores is what the process may use as it starts: the machine's, or what a container is limited to.
var cores = runtime.GOMAXPROCS(0)

// DefaultWorkers is one for every four cores, and at most eight: the machine is the callers', not ours.
func DefaultWorkers() int { return min(max(1, cores/4), 8) }
