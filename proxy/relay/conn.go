package relay

import (
	"math/rand/v2"
	"time"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
	"github.com/lbproxy/lbproxy/proxy/relay/netpoll"
	"github.com/lbproxy/lbproxy/proxy/transport"
)

const (
	// readBuffer is how much is read at once. It holds several frames of the longest payload we allow.
	readBuffer = 128 << 10

	// What we tell peers of ourselves. Frames are allowed to be no longer than they must (h2spec wants that
	// size announced). The windows of streams are small until their readers prove quick, see bdp. That of a
	// connection is given back at once, and only to be no bottleneck.
	maxFrameSize = h2.MinMaxFrameSize
	streamWindow = h2.InitialWindow
	connWindow   = 64 << 20

	// highWater is how many bytes of DATA may stand to be written before calls keep theirs back: a peer that
	// does not read holds up its own calls, and no memory but their windows'. As many bytes of requests may,
	// so that neither takes the other's place.
	highWater = 192 << 10

	// maxWork bounds what is done for a connection before others get their turn, in bytes read or unpacked.
	maxWork = 256 << 10
)

// conn is one HTTP/2 connection: a caller's, to which we are the server, or one to a backend.
type conn struct {
	// Immutable:
	core      *core
	side      side // who is at the other end
	driver    netpoll.Driver
	listener  *listener // of a caller's
	pool      *connPool // of one to a backend
	handshake *handshake

	// Reading:
	in        []byte // in[r:w] has been read and not been parsed: in the core's buffer, or between reads in unparsed
	r, w      int
	unparsed  *block // what of the last read was not parsed; nil if there is nothing
	dec       *hpack.Decoder
	block     []byte         // of the HEADERS whose CONTINUATION is still to come
	blockOf   h2.FrameHeader // of those HEADERS; on stream 0 if there are none
	fragments int32
	recv      h2.ReceiveWindow
	bdp       bdp
	peer      h2.Settings
	heard     time.Time // from the peer, last
	glitches  glitches
	pace      pace
	work      int // done since others had their turn

	// Writing:
	out      []byte  // frames
	pieces   []piece // DATA between them
	pieced   int     // bytes of pieces
	requests int     // how much of out is requests' field blocks
	flight   flight  // what the driver has taken and not given back
	blocks   int     // the size of the blocks that pieces stand in, those in flight too
	acks     *acks   // nil before the first PING
	enc      *hpack.Encoder
	send     h2.SendWindow
	blocked  fairQueue // streams that have something to send

	streams   map[uint32]*exchange
	crossings *crossings // nil if there are none
	nextID    uint32     // of the stream that we open next
	takenID   uint32     // what nextID was when output returned something last: of later streams the peer knows nothing
	lastID    uint32     // of the streams that the peer has opened

	held      int        // what a caller's calls are charged with
	charged   int        // what the connection itself is
	life      timer      // a caller's is to have greeted, or to connect anew; an additional one to a backend has nothing to do
	keepalive *keepalive // nil unless a service has asked for it

	preface    int8 // bytes of the client's preface that are still to come
	introduced bool // our SETTINGS have been sent
	greeted    bool // the peer's SETTINGS have come
	writing    bool // the driver has not finished what it took
	marked     bool // is in core.dirty
	borrows    bool // is in core.borrowers
	overLimit  bool // is in core.overLimit
	served     bool // a backend has answered a call
	leaving    bool // GOAWAY was sent or has come: no more streams
	finished   bool // it is to close as soon as its last stream has ended
	dead       bool
}

func (c *core) newConn(s side, d netpoll.Driver) *conn {
	cn := &conn{
		core: c, side: s, driver: d,
		recv:     h2.NewReceiveWindow(connWindow, connWindow),
		bdp:      newBDP(),
		peer:     h2.DefaultSettings(),
		glitches: glitches{since: c.now},
		send:     h2.InitialWindow,
		dec:      hpack.NewDecoder(),
		enc:      hpack.NewEncoder(),
		blocked:  fairQueue{side: s},
		streams:  map[uint32]*exchange{},
		nextID:   1,
	}
	c.conns[cn] = struct{}{}
	c.metrics.ConnectionOpened(s.String())
	if s == caller {
		cn.preface = int8(len(h2.ClientPreface)) // until then it may speak anything
	} else {
		cn.introduce()
	}
	return cn
}

// introduce says, once, what we are.
func (c *conn) introduce() {
	if c.introduced {
		return
	}
	c.introduced = true
	c.bdp.asked = c.core.now.UnixNano() // the acknowledgement of our SETTINGS takes a round trip
	settings := []h2.Setting{
		{ID: h2.SettingInitialWindowSize, Value: streamWindow},
		{ID: h2.SettingMaxFrameSize, Value: maxFrameSize},
		{ID: h2.SettingMaxHeaderListSize, Value: c.core.cfg.MaxHeaderList},
	}
	c.out = c.writable()
	if c.side == caller {
		settings = append(settings, h2.Setting{ID: h2.SettingMaxConcurrentStreams, Value: c.core.cfg.MaxStreams})
	} else {
		c.out = append(c.out, h2.ClientPreface...)
		settings = append(settings, h2.Setting{ID: h2.SettingEnablePush, Value: 0})
	}
	c.out = h2.AppendSettings(c.out, settings...)
	c.out = h2.AppendWindowUpdate(c.out, 0, connWindow-h2.InitialWindow)
	c.mark()
}

// newCaller takes a caller in.
func (c *core) newCaller(d netpoll.Driver, l *listener) *conn {
	cn := c.newConn(caller, d)
	cn.listener = l
	cn.heard = c.now
	cn.life.fire = cn.expire
	c.set(&cn.life, c.now.Add(c.cfg.HandshakeTimeout))
	if c.draining {
		cn.drain()
	}
	return cn
}

// spread is a duration within a tenth of d, so that those who came together do not all leave together.
func spread(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

// ReadBuf is where the driver reads to, until ReleaseReadBuf: a buffer that all connections of the core share.
func (c *conn) ReadBuf() []byte {
	c.r, c.w, c.in = 0, copy(c.core.readBuffer, c.in[c.r:c.w]), c.core.readBuffer
	if c.unparsed != nil {
		c.core.storage.put(c.unparsed)
		c.unparsed = nil
		c.core.chargeConn(c)
	}
	return c.in[c.w:]
}

// ReleaseReadBuf frees the shared buffer for others: what has not been parsed moves to memory of our own. Nothing is
// borrowed any more.
func (c *conn) ReleaseReadBuf() {
	left := c.in[c.r:c.w]
	c.in, c.r, c.w = nil, 0, len(left)
	if len(left) > 0 && !c.dead {
		c.unparsed = c.core.storage.getAll(len(left))
		c.unparsed.data = append(c.unparsed.data, left...)
		c.in = c.unparsed.data
		c.core.chargeConn(c)
	}
}

// feed parses n more bytes, which the driver has read to ReadBuf. True: it stopped after maxWork; call it again with 0
// when others have had their turn.
func (c *conn) feed(n int) (more bool) {
	c.w += n
	c.work = 0
	c.heard = c.core.now
	more, err := c.parse()
	if err != nil {
		c.fail(err)
		return false
	}
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	return more
}

func (c *conn) parse() (more bool, err error) {
	if c.preface > 0 {
		if err := c.readPreface(); err != nil {
			return false, err
		}
	}
	if c.pool != nil && !c.greeted {
		if err := transport.ForeignGreeting(c.in[c.r:c.w]); err != nil {
			return false, ungreeted{err, metrics.CauseProtocol}
		}
	}
	for c.preface == 0 && !c.dead && c.w-c.r >= h2.FrameHeaderLen {
		if c.work > maxWork {
			return true, nil
		}
		h := h2.ParseFrameHeader(c.in[c.r:])
		frameLen := h2.FrameHeaderLen + int(h.Length)
		err := h.Check(maxFrameSize)
		if h.Length <= maxFrameSize && c.w-c.r < frameLen {
			return false, nil
		}
		switch {
		case err == nil:
			payload := c.in[c.r+h2.FrameHeaderLen : c.r+frameLen]
			err = c.frame(h, payload)
		case h.Length > maxFrameSize, c.blockOf.StreamID != 0: // there is no going on behind it
			return false, err
		}
		c.r += frameLen
		c.work += frameLen
		if err != nil {
			if err = c.failedFrame(err); err != nil {
				return false, err
			}
		}
		c.core.enforceLimits()
		c.core.current = c
	}
	return false, nil
}

// readPreface reads how HTTP/2 begins, as far as it has come.
func (c *conn) readPreface() error {
	for ; c.preface > 0 && c.r < c.w; c.r++ {
		known := h2.ClientPreface[:len(h2.ClientPreface)-int(c.preface)]
		if c.in[c.r] != h2.ClientPreface[len(known)] {
			said := append([]byte(known), c.in[c.r:c.w]...)
			if foreign := transport.Recognize(said, c.core.cfg.Admin); foreign != nil {
				return foreign
			}
			return nil
		}
		c.preface--
	}
	if c.preface == 0 {
		c.introduce()
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
		return c.onGoAway(payload)
	case h2.FramePriority:
		return c.onPriority(h, payload)
	}
	return c.glitch("unknown frames")
}
