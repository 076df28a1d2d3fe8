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
// are worth. It may double while all that was received is released by then: whoever reads so quickly may be sent
// more, and nothing is held for it. It halves while some is still held: more would only be held longer.
type ReceiveWindow struct {
	size    int32 // what the peer may have sent and we not released
	least   int32 // that size may get
	most    int32
	allowed int32 // what it may still send
	pending int32 // released, and not told yet
}

// NewReceiveWindow returns a window of which the peer knows that it has size bytes, and that may grow to most.
func NewReceiveWindow(size, most int32) ReceiveWindow {
	return ReceiveWindow{size: size, least: size, most: most, allowed: size}
}

// Receive notes n bytes of DATA, padding included. It reports false if the peer had no right to send them.
func (w *ReceiveWindow) Receive(n int) bool {
	if int64(n) > int64(w.allowed) {
		return false
	}
	w.allowed -= int32(n)
	return true
}

// Release lets go of n received bytes, and the window grow by up to room bytes. It returns by how much to update the
// peer's window; 0 means not now.
func (w *ReceiveWindow) Release(n, room int) int32 {
	w.pending += int32(n)
	// A half is late enough to save frames, and soon enough that a peer at full speed is not held up.
	if w.pending < (w.size+1)/2 {
		return 0
	}
	update := w.pending
	w.pending = 0
	if w.size-w.allowed == update {
		more := min(w.size, w.most-w.size, int32(min(room, MaxWindow)))
		w.size += more
		update += more
	} else {
		less := min(update, w.size-max(w.size/2, w.least))
		w.size -= less
		update -= less
	}
	w.allowed += update
	return update
}

// Allowed is how many bytes the peer may still send.
func (w *ReceiveWindow) Allowed() int32 { return w.allowed }

// Grown is by how many bytes the window is larger than it was at first.
func (w *ReceiveWindow) Grown() int { return int(w.size - w.least) }

// Held is how many bytes were received and not released.
func (w *ReceiveWindow) Held() int32 { return w.size - w.allowed - w.pending }
