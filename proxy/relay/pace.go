package relay

import "time"

// ackDelay is how long an answer to a PING may wait for other frames to go with. Peers that measure the
// bandwidth ping with nearly every message; answering at once would double the writes.
var ackDelay = [...]time.Duration{caller: 2 * time.Millisecond, backend: 10 * time.Millisecond}

// pace is how quickly the frames of calls follow each other on a connection, either way.
type pace struct {
	last time.Time
	gaps [2]time.Duration // the last ones: that of a call from its request to its response, and that between calls
}

func (p *pace) beat(now time.Time) {
	if gap := now.Sub(p.last); gap > 0 {
		p.last, p.gaps = now, [2]time.Duration{gap, p.gaps[0]}
	}
}

// quick says whether another frame is likely within d.
func (p *pace) quick(d time.Duration) bool { return max(p.gaps[0], p.gaps[1]) < d }
