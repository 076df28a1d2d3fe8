package session

import (
	"iter"
	"time"

	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
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

	// highWater is how many bytes of DATA may stand to be written before streams keep theirs back: a peer that
	// does not read holds up its own calls, and no memory but their windows'. As many bytes of requests may,
	// so that neither takes the other's place.
	highWater = 192 << 10

	// maxWork bounds what is done for a connection before others get their turn, in bytes read or unpacked.
	maxWork = 256 << 10
)

// Role is which end of a connection a session is.
type Role uint8

// The roles.
const (
	Server Role = iota
	Client
)

// Conn is one HTTP/2 connection.
type Conn struct {
	// Immutable:
	group   *Group
	handler Handler

	// Reading:
	in        []byte // in[r:w] has been read and not been parsed: in the group's buffer, or between reads in unparsed
	r, w      int
	unparsed  *block // what of the last read was not parsed; nil if there is nothing
	dec       *hpack.Decoder
	block     []byte         // of the HEADERS whose CONTINUATION is still to come
	blockOf   h2.FrameHeader // of those HEADERS; on stream 0 if there are none
	fragments int32
	recv      h2.ReceiveWindow
	bdp       bdp
	peer      h2.Settings
	heard     int64 // from the peer, last, in Unix nanoseconds
	glitches  glitches
	pace      pace
	work      int // done since others had their turn

	// Writing:
	out      []byte  // frames
	pieces   []piece // DATA between them
	pieced   int     // bytes of pieces
	requests int     // how much of out is requests' field blocks
	flight   Output  // what has been given out and not been given back
	blocks   int     // the size of the blocks that pieces stand in, those in flight too
	acks     *acks   // nil before the first PING
	enc      *hpack.Encoder
	send     h2.SendWindow
	blocked  FairQueue // streams that have something to send

	streams   map[uint32]*Stream
	crossings *crossings // nil if there are none
	keepalive *keepalive // nil unless it has been asked for
	nextID    uint32     // of the stream that we open next
	takenID   uint32     // what nextID was when Output returned something last: of later streams the peer knows nothing
	lastID    uint32     // of the streams that the peer has opened

	charged int   // what the connection itself holds
	wake    int64 // when Expire is to be called, in Unix nanoseconds; 0 for not at all

	role       Role
	preface    int8 // bytes of the client's preface that are still to come
	introduced bool // our SETTINGS have been sent
	greeted    bool // the peer's SETTINGS have come
	writing    bool // Output has returned something that is not done
	marked     bool // OnOutput has been called, and Output has not
	borrows    bool // is in group.borrowers
	overLimit  bool // is in group.unread
	roomy      bool // is in group.roomy
	leaving    bool // GOAWAY was sent or has come: no more streams
	finished   bool // it is to close as soon as its last stream has ended
	dead       bool
}

// Init makes c a connection of a group. A client introduces itself at once, a server when the preface has come: until
// then the peer may speak anything.
func (c *Conn) Init(g *Group, role Role, h Handler) {
	*c = Conn{
		group: g, handler: h, role: role,
		recv:     h2.NewReceiveWindow(connWindow, connWindow),
		bdp:      newBDP(),
		peer:     h2.DefaultSettings(),
		glitches: glitches{since: g.now},
		send:     h2.InitialWindow,
		dec:      hpack.NewDecoder(),
		enc:      hpack.NewEncoder(),
		streams:  map[uint32]*Stream{},
		nextID:   1,
		heard:    g.now,
	}
	if role == Server {
		c.preface = int8(len(h2.ClientPreface))
	} else {
		c.introduce()
	}
}

// introduce says, once, what we are.
func (c *Conn) introduce() {
	if c.introduced {
		return
	}
	c.introduced = true
	c.bdp.asked = c.group.now // the acknowledgement of our SETTINGS takes a round trip
	settings := []h2.Setting{
		{ID: h2.SettingInitialWindowSize, Value: streamWindow},
		{ID: h2.SettingMaxFrameSize, Value: maxFrameSize},
		{ID: h2.SettingMaxHeaderListSize, Value: c.group.limits.MaxHeaderList},
	}
	c.out = c.writable()
	if c.role == Server {
		settings = append(settings, h2.Setting{ID: h2.SettingMaxConcurrentStreams, Value: c.group.limits.MaxStreams})
	} else {
		c.out = append(c.out, h2.ClientPreface...)
		settings = append(settings, h2.Setting{ID: h2.SettingEnablePush, Value: 0})
	}
	c.out = h2.AppendSettings(c.out, settings...)
	c.out = h2.AppendWindowUpdate(c.out, 0, connWindow-h2.InitialWindow)
	c.mark()
}

// Dead says whether the connection has ended.
func (c *Conn) Dead() bool { return c.dead }

// Greeted says whether the peer's SETTINGS have come.
func (c *Conn) Greeted() bool { return c.greeted }

// Leaving says whether GOAWAY was sent or has come: there are no more streams.
func (c *Conn) Leaving() bool { return c.leaving }

// Len is how many streams are open.
func (c *Conn) Len() int { return len(c.streams) }

// Streams are those that are open.
func (c *Conn) Streams() iter.Seq[*Stream] {
	return func(yield func(*Stream) bool) {
		for _, s := range c.streams {
			if !yield(s) {
				return
			}
		}
	}
}

// Held is how many bytes of memory the connection holds, its streams aside.
func (c *Conn) Held() int { return c.charged }

// Silent is for how long the peer has said nothing.
func (c *Conn) Silent() time.Duration { return time.Duration(c.group.now - c.heard) }

// PeerMaxStreams is how many streams the peer takes at a time, PeerMaxHeaderList how long a field block.
func (c *Conn) PeerMaxStreams() uint32    { return c.peer.MaxConcurrentStreams }
func (c *Conn) PeerMaxHeaderList() uint32 { return c.peer.MaxHeaderListSize }

// Unread is what has been read and not been parsed.
func (c *Conn) Unread() []byte { return c.in[c.r:c.w] }

// AllowsStream says whether the server takes one more stream.
func (c *Conn) AllowsStream() bool {
	return !c.dead && !c.leaving && uint32(len(c.streams)) < c.peer.MaxConcurrentStreams
}

// Clogged says that the server does not read the requests that it has been sent.
func (c *Conn) Clogged() bool { return c.requests >= highWater }

// Exhausted says that there are no identifiers left for streams.
func (c *Conn) Exhausted() bool { return c.nextID > h2.MaxStreamID }

// Open opens a stream with a request's fields, and sends what is queued on it.
func (c *Conn) Open(s *Stream, fields []hpack.Field) {
	c.adopt(s, c.nextID)
	s.expected, s.answered = -1, false
	c.nextID += 2
	c.restartKeepalive()
	noBody := s.queue.len == 0 && s.last == endStream
	before := len(c.out)
	c.writeHeaders(s.id, fields, noBody)
	c.requests += len(c.out) - before
	c.widen(s)
	if noBody {
		s.done = true
	} else {
		c.unblock(s)
		c.pump()
	}
}

// adopt makes s a stream of the connection.
func (c *Conn) adopt(s *Stream, id uint32) {
	s.conn, s.id = c, id
	s.send, s.recv = h2.SendWindow(c.peer.InitialWindowSize), h2.NewReceiveWindow(streamWindow, updateLump)
	c.streams[id] = s
}

// slot notes that there may be room for one more stream.
func (c *Conn) slot() {
	if c.role == Client && c.greeted && !c.roomy {
		c.roomy = true
		c.group.roomy = append(c.group.roomy, c)
	}
}

// forget takes a stream off the connection.
func (c *Conn) forget(s *Stream) {
	c.blocked.Remove(s)
	delete(c.streams, s.id)
	s.conn = nil
	c.bdp.judge(&s.recv)
	c.slot()
	c.closeIfFinished()
}

// arm asks for a call of Expire at a time.
func (c *Conn) arm(at int64) {
	if c.wake == 0 || at < c.wake {
		c.wake = at
		c.handler.OnTimer(time.Duration(at - c.group.now))
	}
}

// Expire does what is due. It is called when the time has come that OnTimer has asked for, and does no harm before.
func (c *Conn) Expire() {
	c.wake = 0
	c.expireAcks()
	c.expireCrossings()
	c.checkAlive()
}
