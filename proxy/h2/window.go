package h2

const (
	// InitialWindow is the size of every window until its owner says otherwise.
	InitialWindow = 1<<16 - 1
	// MaxWindow is the largest a window may get.
	MaxWindow = 1<<31 - 1
)

// A SendWindow is how many bytes of DATA may be sent: on a stream, or on a connection. It may be negative,
// after the peer has made its initial windows smaller (RFC 9113, section 6.9.2).
type SendWindow int32

// Grow adds what a WINDOW_UPDATE or a change of the initial window gives, or takes off what such a change
// takes. It reports false, and changes nothing, if the window would exceed MaxWindow: "A sender MUST NOT allow
// a flow-control window to exceed 2^31-1 octets" (section 6.9.1).
func (w *SendWindow) Grow(n int32) bool {
	grown := int64(*w) + int64(n)
	if grown > MaxWindow {
		return false
	}
	*w = SendWindow(grown)
	return true
}

// Take takes up to n bytes off the window, and returns how many.
func (w *SendWindow) Take(n int) int {
	n = max(0, min(n, int(*w)))
	*w -= SendWindow(n)
	return n
}

// A ReceiveWindow is how many bytes of DATA the peer may send. Bytes go through three states: allowed, received
// and held, released; released bytes are allowed again, in lumps, so that updates do not cost more than they
// are worth.
type ReceiveWindow struct {
	size    int32 // what the peer may have sent and we not released
	first   int32 // what size was at first
	allowed int32 // what it may still send
	pending int32 // released, and not told yet
	lump    int32 // what is worth an update, unless half of the window is less

	released int32 // in this turn
	emptied  bool  // nothing was held at some time in it
	used     bool  // an update has been due
}

// NewReceiveWindow returns a window of which the peer knows that it has size bytes. It is updated by half of it, which
// is late enough to save frames and soon enough that a peer at full speed is not held up, and by lump at the latest.
func NewReceiveWindow(size, lump int32) ReceiveWindow {
	return ReceiveWindow{size: size, first: size, allowed: size, lump: lump}
}

// Receive notes n bytes of DATA, padding included. It reports false if the peer had no right to send them.
func (w *ReceiveWindow) Receive(n int) bool {
	if int64(n) > int64(w.allowed) {
		return false
	}
	w.allowed -= int32(n)
	return true
}

// Release lets go of n received bytes. It reports whether it is time for an update.
func (w *ReceiveWindow) Release(n int) (due bool) {
	w.pending += int32(n)
	w.released += int32(n)
	w.emptied = w.emptied || w.Held() == 0
	due = w.pending >= min((w.size+1)/2, w.lump)
	w.used = w.used || due
	return due
}

// Allowed is how many bytes the peer may still send.
func (w *ReceiveWindow) Allowed() int32 { return w.allowed }

// Turn begins a new turn if half of the window has been released since the last. It reports whether it does, and
// whether nothing was held at some time in the turn that ends: then whoever reads keeps up with the peer.
func (w *ReceiveWindow) Turn() (turned, keptUp bool) {
	if w.released < (w.size+1)/2 {
		return false, false
	}
	keptUp = w.emptied
	w.released, w.emptied = 0, false
	return true, keptUp
}

// Update gives the window a size, or the smallest one to which it can get without taking back what the peer has
// been allowed. It returns by how much to update the peer's window; 0 means not now.
func (w *ReceiveWindow) Update(size int32) int32 {
	by := max(0, w.pending+size-w.size)
	w.size += by - w.pending
	w.allowed += by
	w.pending = 0
	return by
}

// Size is how many bytes the peer may have sent and we not released.
func (w *ReceiveWindow) Size() int32 { return w.size }

// Held is how many bytes were received and not released.
func (w *ReceiveWindow) Held() int32 { return w.size - w.allowed - w.pending }

// Used reports whether an update has ever been due.
func (w *ReceiveWindow) Used() bool { return w.used }

// Grown is by how many bytes the window is larger than it was at first.
func (w *ReceiveWindow) Grown() int { return int(w.size - w.first) }
