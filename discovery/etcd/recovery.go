package etcd

import (
	"errors"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// A cause is why a watch has ended, or keys are listed: a label of the metrics.
type cause string

// The causes. After the last two, another watch goes on where the one before was.
const (
	causeStart      cause = "start"
	causeCompaction cause = "compaction"
	causeAudit      cause = "audit"
	causeRestored   cause = "restored"
	causeListError  cause = "list_error"
	causeWatchError cause = "watch_error"
	causeSilence    cause = "silence"
)

// planRecovery decides whether after err the keys have to be listed again, or can be watched on.
func (f *follower) planRecovery(err error) {
	why := f.causeOf(err)
	switch why {
	case causeCompaction, causeAudit, causeRestored:
		// Others have the same reason at the same time.
		f.relist(why, time.Duration(rand.Int64N(int64(f.mux.Limits.Spread))))
		f.listing.otherHistory = why == causeRestored
	case causeSilence:
		if !f.alive {
			// Where no watch tells anything at all, the news has to come by another way.
			f.relist(why, 0)
			return
		}
		f.mux.metrics.Resumed(string(why))
	case causeWatchError:
		f.mux.metrics.Resumed(string(why))
	}
}

func (f *follower) causeOf(err error) cause {
	switch {
	case f.listing != nil:
		return causeListError
	case errors.Is(err, rpctypes.ErrCompacted):
		return causeCompaction
	case errors.Is(err, errSilent):
		return causeSilence
	case errors.Is(err, errDiverged):
		return causeAudit
	case errors.Is(err, errRestored):
		return causeRestored
	default:
		return causeWatchError
	}
}

// relist plans a new list of the keys, after a time.
func (f *follower) relist(why cause, after time.Duration) {
	f.listing = &listing{prefix: f.prefix, cause: why, due: time.Now().Add(after)}
}
