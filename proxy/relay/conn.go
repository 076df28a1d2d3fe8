package relay

import (
	"bytes"
	"errors"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

const (
	// readBuffer is how much is read at once. It holds more than two frames of the longest payload we allow.
	readBuffer = 64 << 10

	// What we tell peers of ourselves. Frames are allowed to be no longer than they must (h2spec wants that
	// size announced); the windows are enough for a fast local peer.
	maxFrameSize         = h2.MinMaxFrameSize
	callerStreamWindow   = 256 << 10
	backendStreamWindow  = 1 << 20
	connWindow           = 16 << 20
	maxHeaderListSize    = 1 << 20
	maxConcurrentStreams = 10_000
	maxContinuations     = 128

	// highWater is how many bytes may stand to be written before calls keep theirs back: a peer that does
	// not read holds up its own calls, and no memory but their windows'.
	highWater = 192 << 10
	// maxUnread is how many bytes may stand to be written in all, control frames included, to a peer that
	// makes us answer and does not read the answers.
	maxUnread = 4 << 20

	// maxGlitches is how many frames that cost us and help nobody a connection may have on end within
	// glitchPeriod. A quiet connection that is kept alive by PINGs has as many, but not so fast.
	maxGlitches  = 10_000
	glitchPeriod = 10 * time.Second
)

// transport is a connection's driver. Both methods return at once.
type transport interface {
	// close ends the connection, after what take has given out last has been written as far as possible.
	close()
}

// conn is one HTTP/2 connection: a caller's, to which we are the server, or one to a backend.
type conn struct {
	// Immutable:
	core      *core
	side      side // who is at the other end
	transport transport
	front     *front    // of a caller's
	upstream  *upstream // of one to a backend
	link      *link

	// Reading:
	in        []byte // in[r:w] has been read and not been understood
	r, w      int
	preface   int // bytes of the client's preface that are still to come
	dec       *hpack.Decoder
	block     []byte         // of the HEADERS whose CONTINUATION is still to come
	blockOf   h2.FrameHeader // of those HEADERS; on stream 0 if there are none
	fragments int
	recv      h2.ReceiveWindow
	peer      h2.Settings
	greeted   bool // the peer's SETTINGS have come
	glitches  int
	calmSince time.Time // when glitches were counted from

	// Writing:
	out, spare []byte
	acks       []byte // that may wait a little, to go with other frames
	ackWished  bool
	enc        *hpack.Encoder
	encoded    bytes.Buffer
	send       h2.SendWindow
	blocked    blockedList
	writing    bool // the driver has not finished what it took
	marked     bool // is among core.dirty

	streams map[uint32]*stream
	nextID  uint32 // of the stream that we open next
	takenID uint32 // what nextID was when take gave out last: of later streams the peer knows nothing
	lastID  uint32 // of the streams that the peer has opened

	leaving  bool // GOAWAY was sent or has come: no more streams
	finished bool // it is to close as soon as its last stream has ended
	dead     bool
}

func (c *core) newConn(s side, t transport) *conn {
	cn := &conn{
		core: c, side: s, transport: t,
		in:      make([]byte, readBuffer),
		recv:    h2.NewReceiveWindow(connWindow),
		peer:    h2.DefaultSettings(),
		send:    h2.InitialWindow,
		streams: map[uint32]*stream{},
		nextID:  1,

		calmSince: time.Now(),
	}
	cn.dec = hpack.NewDecoder(4096, c.field)
	cn.dec.SetMaxStringLength(maxHeaderListSize)
	cn.enc = hpack.NewEncoder(&cn.encoded)
	settings := []h2.Setting{
		{ID: h2.SettingInitialWindowSize, Value: callerStreamWindow},
		{ID: h2.SettingMaxFrameSize, Value: maxFrameSize},
		{ID: h2.SettingMaxHeaderListSize, Value: maxHeaderListSize},
		{ID: h2.SettingMaxConcurrentStreams, Value: maxConcurrentStreams},
	}
	if s == caller {
		cn.preface = len(h2.ClientPreface)
	} else {
		cn.out = append(cn.out, h2.ClientPreface...)
		settings[0].Value = backendStreamWindow
		settings[3] = h2.Setting{ID: h2.SettingEnablePush, Value: 0}
	}
	cn.out = h2.AppendSettings(cn.out, settings...)
	cn.out = h2.AppendWindowUpdate(cn.out, 0, connWindow-h2.InitialWindow)
	cn.mark()
	return cn
}

// mark notes that there are bytes to be written.
func (c *conn) mark() {
	if !c.marked {
		c.marked = true
		c.core.dirty = append(c.core.dirty, c)
	}
}

// take gives out what is to be written; nil if there is nothing, or if what was given out last is still being
// written. Wrote says that it has been.
func (c *conn) take() []byte {
	c.marked = false
	if c.writing || len(c.out) == 0 {
		return nil
	}
	c.out = append(c.out, c.acks...)
	c.acks = c.acks[:0]
	b := c.out
	c.takenID = c.nextID
	c.out, c.spare = c.spare, nil
	c.writing = true
	return b
}

// wrote takes back what take gave out. What came up meanwhile is marked.
func (c *conn) wrote(b []byte) {
	c.writing = false
	if cap(b) <= 2*highWater {
		c.spare = b[:0]
	}
	c.pump()
	if len(c.out) > 0 {
		c.mark()
	} else {
		c.closeIfFinished()
	}
}

// space is where the driver reads to.
func (c *conn) space() []byte { return c.in[c.w:] }

// received understands n more bytes, which the driver has read to space.
func (c *conn) received(n int) {
	c.w += n
	if err := c.understand(); err != nil {
		c.fail(err)
		return
	}
	if c.r == c.w {
		c.r, c.w = 0, 0
	} else if len(c.in)-c.w < h2.FrameHeaderLen+maxFrameSize {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
	}
}

var errNotHTTP2 = errors.New("the caller does not speak HTTP/2: no preface")

func (c *conn) understand() error {
	for c.preface > 0 && c.r < c.w {
		if c.in[c.r] != h2.ClientPreface[len(h2.ClientPreface)-c.preface] {
			return errNotHTTP2
		}
		c.r++
		c.preface--
	}
	if c.preface > 0 {
		return nil
	}
	for !c.dead && c.w-c.r >= h2.FrameHeaderLen {
		h := h2.ParseFrameHeader(c.in[c.r:])
		if err := h.Check(maxFrameSize); err != nil && (h.Length > maxFrameSize || c.w-c.r >= h2.FrameHeaderLen+int(h.Length)) {
			if c.blockOf.StreamID != 0 {
				return err
			}
			c.r += h2.FrameHeaderLen + int(h.Length)
			if err := c.failedFrame(err); err != nil {
				return err
			}
			continue
		}
		if c.w-c.r < h2.FrameHeaderLen+int(h.Length) {
			return nil
		}
		payload := c.in[c.r+h2.FrameHeaderLen : c.r+h2.FrameHeaderLen+int(h.Length)]
		c.r += h2.FrameHeaderLen + int(h.Length)
		if err := c.frame(h, payload); err != nil {
			if err = c.failedFrame(err); err != nil {
				return err
			}
		}
		if len(c.out) > maxUnread {
			return h2.ConnectionError{Code: h2.EnhanceYourCalm, Reason: "answers are not read"}
		}
	}
	return nil
}

func (c *conn) frame(h h2.FrameHeader, payload []byte) error {
	if c.blockOf.StreamID != 0 && h.Type != h2.FrameContinuation {
		return h2.ConnectionError{Code: h2.ProtocolError, Reason: "a field block is interrupted"}
	}
	if !c.greeted && h.Type != h2.FrameSettings {
		return h2.ConnectionError{Code: h2.ProtocolError, Reason: "the first frame is not SETTINGS"}
	}
	switch h.Type {
	case h2.FrameData:
		return c.onData(h, payload)
	case h2.FrameHeaders:
		fragment, err := h2.ParseHeaders(h, payload)
		return c.onFragment(h, fragment, err)
	case h2.FrameContinuation:
		return c.onContinuation(h, payload)
	case h2.FrameWindowUpdate:
		return c.onWindowUpdate(h, payload)
	case h2.FrameRSTStream:
		return c.onRSTStream(h, payload)
	case h2.FrameSettings:
		return c.onSettings(h, payload)
	case h2.FramePing:
		return c.onPing(h, payload)
	case h2.FrameGoAway:
		last, code, _ := h2.ParseGoAway(payload)
		c.onGoAway(last, code)
		return nil
	case h2.FramePriority:
		if err := h2.ParsePriority(h, payload); err != nil {
			return err
		}
		return c.glitch("PRIORITY")
	}
	return c.glitch("unknown frames")
}

// glitch notes a frame that helps nobody, and fails where there are too many on end.
func (c *conn) glitch(what string) error {
	if c.glitches++; c.glitches <= maxGlitches {
		return nil
	}
	if now := time.Now(); now.Sub(c.calmSince) > glitchPeriod {
		c.glitches, c.calmSince = 0, now
		return nil
	}
	return h2.ConnectionError{Code: h2.EnhanceYourCalm, Reason: "too many of: " + what}
}

func (c *conn) onSettings(h h2.FrameHeader, payload []byte) error {
	if h.Flags.Has(h2.FlagAck) {
		return c.glitch("acknowledgements of SETTINGS")
	}
	before := c.peer.InitialWindowSize
	if err := c.peer.Apply(payload, c.side == backend); err != nil {
		return err
	}
	c.enc.SetMaxDynamicTableSizeLimit(c.peer.HeaderTableSize)
	grown := c.peer.InitialWindowSize - before
	for _, st := range c.streams {
		if !st.half[c.side].send.Grow(grown) {
			return h2.ConnectionError{Code: h2.FlowControlError, Reason: "SETTINGS_INITIAL_WINDOW_SIZE makes a window exceed 2^31-1"}
		}
		c.unblock(st)
	}
	c.out = h2.AppendSettingsAck(c.out)
	c.mark()
	c.pump()
	if !c.greeted {
		c.greeted = true
		if c.upstream != nil {
			c.upstream.greeted(c)
		}
	} else if c.upstream != nil {
		c.upstream.admit()
	}
	return c.glitch("SETTINGS")
}

// maxAcks bounds the PINGs whose answers wait.
const maxAcks = 8 * (h2.FrameHeaderLen + 8)

func (c *conn) onPing(h h2.FrameHeader, payload []byte) error {
	if h.Flags.Has(h2.FlagAck) {
		c.onPingAck(h2.ParsePing(payload))
		return nil
	}
	c.acks = h2.AppendPing(c.acks, true, h2.ParsePing(payload))
	switch {
	case len(c.acks) >= maxAcks:
		c.flushAcks()
	case !c.ackWished:
		c.ackWished = true
		c.core.acking = append(c.core.acking, c)
		c.core.wishes.ackSoon()
	}
	return c.glitch("PING")
}

func (c *conn) flushAcks() {
	c.ackWished = false
	if len(c.acks) > 0 && !c.dead {
		c.out = append(c.out, c.acks...)
		c.acks = c.acks[:0]
		c.mark()
	}
}

func (c *conn) onWindowUpdate(h h2.FrameHeader, payload []byte) error {
	n, err := h2.ParseWindowUpdate(h, payload)
	if err != nil {
		return err
	}
	if h.StreamID == 0 {
		if !c.send.Grow(n) {
			return h2.ConnectionError{Code: h2.FlowControlError, Reason: "the connection's window exceeds 2^31-1"}
		}
		c.pump()
		return c.glitch("WINDOW_UPDATE")
	}
	st := c.streams[h.StreamID]
	if st == nil {
		return c.unknownStream(h)
	}
	if !st.half[c.side].send.Grow(n) {
		return h2.StreamError{StreamID: h.StreamID, Code: h2.FlowControlError, Reason: "the window exceeds 2^31-1"}
	}
	c.unblock(st)
	c.pump()
	return c.glitch("WINDOW_UPDATE")
}

// unknownStream judges a frame on a stream that is not open: an error if it never was.
func (c *conn) unknownStream(h h2.FrameHeader) error {
	if c.idle(h.StreamID) {
		return h2.ConnectionError{Code: h2.ProtocolError, Reason: h.Type.String() + " on a stream that was never opened"}
	}
	return c.glitch("frames on closed streams")
}

func (c *conn) idle(id uint32) bool {
	if c.side == caller {
		return id%2 == 0 || id > c.lastID
	}
	return id%2 == 0 || id >= c.nextID
}

func (c *conn) onRSTStream(h h2.FrameHeader, payload []byte) error {
	st := c.streams[h.StreamID]
	if st == nil {
		return c.unknownStream(h)
	}
	code := h2.ParseRSTStream(payload)
	c.forget(st)
	if c.side == caller {
		st.cancelled(c.core)
		return c.glitch("RST_STREAM")
	}
	st.refused(c.core, code)
	return nil
}

// failedFrame ends the stream that a frame has failed, or returns why the connection must end.
func (c *conn) failedFrame(err error) error {
	var e h2.StreamError
	if errors.As(err, &e) {
		return c.failStream(e)
	}
	return err
}

// failStream answers a stream error of the peer's.
func (c *conn) failStream(e h2.StreamError) error {
	st := c.streams[e.StreamID]
	if st == nil && c.idle(e.StreamID) {
		if c.side == backend || e.StreamID%2 == 0 {
			return h2.ConnectionError{Code: e.Code, Reason: e.Reason} // RST_STREAM must not be sent on such
		}
		c.lastID = e.StreamID
	}
	c.reset(e.StreamID, e.Code)
	if st != nil {
		c.forget(st)
		if c.side == caller {
			st.cancelled(c.core)
		} else {
			st.broken(c.core, e)
		}
	}
	return c.glitch("stream errors")
}

// reset sends RST_STREAM.
func (c *conn) reset(id uint32, code h2.ErrCode) {
	c.out = h2.AppendRSTStream(c.out, id, code)
	c.mark()
}

// forget takes a stream off the connection.
func (c *conn) forget(st *stream) {
	h := &st.half[c.side]
	c.unlist(st)
	delete(c.streams, h.id)
	h.conn = nil
	if c.upstream != nil {
		c.upstream.admit()
	}
	c.closeIfFinished()
}

// fail ends the connection because of what the peer did.
func (c *conn) fail(err error) {
	if c.dead {
		return
	}
	e := h2.ConnectionError{Code: h2.ProtocolError, Reason: err.Error()}
	errors.As(err, &e)
	if !errors.Is(err, errNotHTTP2) {
		c.out = h2.AppendGoAway(c.out, c.lastID, e.Code, e.Reason)
		c.mark()
	}
	c.end(err)
}

// end ends the connection and what runs on it.
func (c *conn) end(err error) {
	if c.dead {
		return
	}
	c.dead = true
	delete(c.core.callers, c)
	for _, st := range c.streams {
		c.unlist(st)
		st.half[c.side].conn = nil
	}
	streams := c.streams
	c.streams = nil
	if c.upstream != nil {
		c.upstream.lost(c, err)
	}
	for _, st := range streams {
		switch {
		case c.side == caller:
			st.cancelled(c.core)
		case st.half[backend].id < c.takenID || !st.again(c.core):
			st.lost(c.core, err)
		}
	}
	c.transport.close()
}

// goAway says that no more streams are taken than up to last.
func (c *conn) goAway(last uint32) {
	c.out = h2.AppendGoAway(c.out, last, h2.NoError, "")
	c.mark()
}

// drainPing is what a PING carries whose answer shows that the peer has seen our first GOAWAY.
var drainPing = [8]byte{'d', 'r', 'a', 'i', 'n'}

// drain lets the caller go in two steps, so that no stream is refused that was on its way (RFC 9113, section 6.8).
func (c *conn) drain() {
	if c.leaving || c.dead {
		return
	}
	c.leaving = true
	c.goAway(h2.MaxStreamID)
	c.out = h2.AppendPing(c.out, false, drainPing)
	if c.preface > 0 || !c.greeted {
		c.onPingAck(drainPing) // there is nobody yet to answer
	}
}

func (c *conn) onPingAck(data [8]byte) {
	if data == drainPing && c.leaving && !c.finished {
		c.finished = true
		c.goAway(c.lastID)
		c.closeIfFinished()
	}
}

func (c *conn) closeIfFinished() {
	if c.finished && len(c.streams) == 0 && len(c.out) == 0 && !c.writing && !c.dead {
		c.end(errFinished)
	}
}

var errFinished = errors.New("the connection has served its purpose")

func (c *conn) onGoAway(last uint32, code h2.ErrCode) {
	if c.side == caller {
		return // it is about us opening streams; its own go on
	}
	c.leaving = true
	c.upstream.goingAway(c)
	for id, st := range c.streams {
		if id > last {
			c.forget(st)
			st.refused(c.core, h2.RefusedStream)
		}
	}
	if !c.finished {
		c.finished = true
		c.closeIfFinished()
	}
}
