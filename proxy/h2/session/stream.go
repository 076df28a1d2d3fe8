package session

import (
	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

// A Stream is one stream of a connection. It is part of what its owner keeps of a call: what is to be sent on it is
// queued here before it is opened, too, and it can be used again when it has been closed.
type Stream struct {
	group   *Group
	handler StreamHandler
	conn    *Conn // nil until the stream is opened there and after it has ended there
	source  *Conn // on whose behalf it was opened; see [FairQueue]

	id       uint32
	send     h2.SendWindow
	recv     h2.ReceiveWindow
	turnedAt int64 // when the last turn of recv began, in Unix nanoseconds

	queue        Queue // DATA for the peer that its windows have no room for
	trailers     []hpack.Field
	trailersSize int
	last         last // what follows the queue

	answered bool  // a client's: the final response has begun
	done     bool  // END_STREAM has been sent
	gotEnd   bool  // END_STREAM has come
	expected int64 // bytes of DATA still to come, by content-length; negative if it is not known

	flow          *flow // in which queue it waits: Conn.blocked, or one of its owner's before it is opened; nil for none
	before, after *Stream
}

// last is what ends the sending on a stream.
type last uint8

const (
	nothing last = iota
	endStream
	trailers
)

// Init makes a stream of a group ready to be opened. It is sent in turn with those of other sources.
func (s *Stream) Init(g *Group, h StreamHandler, source *Conn) {
	s.group, s.handler, s.source = g, h, source
}

// Clear lets go of all that a closed stream holds, so that it can be used again.
func (s *Stream) Clear() {
	if s.group == nil {
		return
	}
	s.group.storage.Clear(&s.queue)
	s.ForgetWindow()
	*s = Stream{trailers: KeptFields(s.trailers)}
}

// Restart makes a closed stream ready to be opened again. How it ends is kept, what was queued is not.
func (s *Stream) Restart() {
	s.group.storage.Clear(&s.queue)
	s.ForgetWindow()
	*s = Stream{
		group: s.group, handler: s.handler, source: s.source,
		trailers: s.trailers, trailersSize: s.trailersSize, last: s.last,
	}
}

// ForgetWindow gives back what the window has grown by.
func (s *Stream) ForgetWindow() {
	if grown := s.recv.Grown(); grown != 0 {
		s.group.budget.Grow(-grown)
	}
	s.recv = h2.ReceiveWindow{}
}

// Handler receives the stream's events.
func (s *Stream) Handler() StreamHandler { return s.handler }

// ID is the stream's identifier on its connection.
func (s *Stream) ID() uint32 { return s.id }

// IsOpen says whether the stream is on a connection.
func (s *Stream) IsOpen() bool { return s.conn != nil }

// Queued is how many bytes wait to be sent.
func (s *Stream) Queued() int { return s.queue.len }

// Held is how many bytes of memory the stream takes for what waits to be sent.
func (s *Stream) Held() int { return s.queue.cap + s.trailersSize }

// Ends says whether END_STREAM has been sent or is queued: nothing may follow.
func (s *Stream) Ends() bool { return s.done || s.last != nothing }

// Ended says whether END_STREAM has been sent.
func (s *Stream) Ended() bool { return s.done }

// GotEnd says whether END_STREAM has come.
func (s *Stream) GotEnd() bool { return s.gotEnd }

// Unmeasured says that the peer has not said how long its content is.
func (s *Stream) Unmeasured() bool { return s.expected < 0 }

// PeerMaxHeaderList is how long a field block the peer takes, on an open stream.
func (s *Stream) PeerMaxHeaderList() uint32 { return s.conn.peer.MaxHeaderListSize }

// Send sends DATA that nothing stands in front of, if it can be sent as it is. It stands in frame, behind room for a
// frame's header. If it cannot, it is to be queued.
func (s *Stream) Send(frame []byte, end bool) (sent bool) {
	if s.conn == nil || s.queue.len > 0 || !s.conn.writeData(s, frame, end) {
		return false
	}
	if end {
		s.last, s.done = endStream, true
	}
	return true
}

// Queue queues DATA. Push sends it.
func (s *Stream) Queue(data []byte, end bool) {
	s.group.storage.Add(&s.queue, data)
	if end {
		s.last = endStream
	}
}

// Push sends what is queued, as far as that is possible now.
func (s *Stream) Push() {
	if c := s.conn; c != nil {
		c.unblock(s)
		c.pump()
	}
}

// TakeBackEnd takes back the end of a stream that is queued and not sent.
func (s *Stream) TakeBackEnd() { s.last = nothing }

// Discard lets go of the DATA that is queued.
func (s *Stream) Discard() {
	if s.conn != nil {
		s.conn.blocked.Remove(s)
	}
	s.group.storage.Clear(&s.queue)
}

// Sent is what has become of fields.
type Sent uint8

// The fates of fields.
const (
	FieldsSent Sent = iota
	FieldsQueued
	FieldsUnwanted // the stream has an end already
	FieldsTooLong  // for the peer
)

// Headers sends a field block, but for the one that begins a request. Trailers follow what is queued.
func (s *Stream) Headers(fields []hpack.Field, end bool) Sent {
	switch {
	case s.Ends():
		return FieldsUnwanted
	case s.conn == nil, s.queue.len > 0:
		s.trailers, s.last = append(Cleared(s.trailers), fields...), trailers
		s.trailersSize += FieldsSize(fields)
		return FieldsQueued
	case uint32(FieldsSize(fields)) > s.conn.peer.MaxHeaderListSize:
		return FieldsTooLong
	}
	s.conn.writeHeaders(s.id, fields, end)
	if end {
		s.last, s.done = trailers, true
	}
	return FieldsSent
}

// Credit lets the peer send n bytes more, because as many have been taken.
func (s *Stream) Credit(n int) {
	if s.conn == nil || s.gotEnd || n == 0 {
		return
	}
	if s.recv.Release(n) {
		s.conn.resize(s, s.conn.bdp.next(s, s.group.now))
	}
}

// Close takes the stream off its connection, with RST_STREAM if it is not over yet.
func (s *Stream) Close(code h2.ErrCode) {
	c := s.conn
	if c == nil {
		return
	}
	if s.done && s.gotEnd {
		c.expectLate()
	} else {
		c.reset(s.id, code, s.window())
	}
	c.forget(s)
}

// window is how many bytes of DATA the peer may still send.
func (s *Stream) window() int32 {
	if s.gotEnd {
		return noMore
	}
	return s.recv.Allowed()
}

// maxKept and maxKeptFields bound what is kept for others: buffers that are not the storage's, and lists of fields.
const (
	maxKept       = 16 << 10
	maxKeptFields = 128
)

func kept(b []byte) []byte {
	if cap(b) > maxKept {
		return nil
	}
	return b[:0]
}

// KeptFields are fields that are kept to be used again, emptied.
func KeptFields(fields []hpack.Field) []hpack.Field {
	if cap(fields) > maxKeptFields {
		return nil
	}
	return Cleared(fields)
}

// Cleared empties fields without keeping their strings alive.
func Cleared(fields []hpack.Field) []hpack.Field {
	clear(fields)
	return fields[:0]
}

// FieldsSize is the size of fields, as SETTINGS_MAX_HEADER_LIST_SIZE counts.
func FieldsSize(fields []hpack.Field) (n int) {
	for i := range fields {
		n += int(fields[i].Size())
	}
	return n
}
