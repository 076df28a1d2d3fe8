package h2

import (
	"encoding/binary"
	"fmt"
)

// FrameType is what a frame is (RFC 9113, section 6).
type FrameType uint8

// The frame types. Others are to be ignored.
const (
	FrameData         FrameType = 0x0
	FrameHeaders      FrameType = 0x1
	FramePriority     FrameType = 0x2
	FrameRSTStream    FrameType = 0x3
	FrameSettings     FrameType = 0x4
	FramePushPromise  FrameType = 0x5
	FramePing         FrameType = 0x6
	FrameGoAway       FrameType = 0x7
	FrameWindowUpdate FrameType = 0x8
	FrameContinuation FrameType = 0x9
)

var frameNames = [...]string{
	"DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE",
	"CONTINUATION",
}

func (t FrameType) String() string {
	if int(t) < len(frameNames) {
		return frameNames[t]
	}
	return fmt.Sprintf("frame type %#x", uint8(t))
}

// Flags are a frame's. What a bit means depends on the frame's type.
type Flags uint8

// The flags.
const (
	FlagAck        Flags = 0x1  // SETTINGS, PING
	FlagEndStream  Flags = 0x1  // DATA, HEADERS
	FlagEndHeaders Flags = 0x4  // HEADERS, CONTINUATION
	FlagPadded     Flags = 0x8  // DATA, HEADERS
	FlagPriority   Flags = 0x20 // HEADERS
)

// Has says whether flag is set.
func (f Flags) Has(flag Flags) bool { return f&flag != 0 }

const (
	// FrameHeaderLen is the length of a frame's header.
	FrameHeaderLen = 9
	// MinMaxFrameSize is the longest payload that every peer takes, and what it takes until its SETTINGS say
	// otherwise; MaxMaxFrameSize is the longest that they can say.
	MinMaxFrameSize = 1 << 14
	MaxMaxFrameSize = 1<<24 - 1
	// MaxStreamID is the highest stream identifier; a connection that has used it opens no more streams.
	MaxStreamID = 1<<31 - 1
	// PingLen is the length of a PING's payload.
	PingLen = 8

	settingLen      = 6
	priorityLen     = 5
	rstStreamLen    = 4
	windowUpdateLen = 4
	goAwayMinLen    = 8
)

// A FrameHeader stands before each frame's payload.
type FrameHeader struct {
	Length   uint32 // of the payload
	Type     FrameType
	Flags    Flags
	StreamID uint32
}

// ParseFrameHeader takes a header off b, which must hold FrameHeaderLen bytes.
func ParseFrameHeader(b []byte) FrameHeader {
	return FrameHeader{
		Length:   uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]),
		Type:     FrameType(b[3]),
		Flags:    Flags(b[4]),
		StreamID: binary.BigEndian.Uint32(b[5:]) & MaxStreamID,
	}
}

// Check reports what is wrong with a frame by its header alone, before its payload has been read: a payload of
// more than maxFrameSize, a length that its type cannot have, or a stream identifier that it must or must not
// have. The error is a ConnectionError or a StreamError.
func (h FrameHeader) Check(maxFrameSize uint32) error {
	if h.Length > maxFrameSize {
		// A connection error in any case: "A frame size error in a frame that could alter the state of the
		// entire connection MUST be treated as a connection error" (section 4.2), and to skip others' payload
		// means to read it.
		return ConnectionError{FrameSizeError, "a frame is longer than was allowed"}
	}
	switch h.Type {
	case FrameData, FrameHeaders, FrameContinuation:
		return h.needStream()
	case FramePriority:
		if err := h.needStream(); err != nil {
			return err
		}
		if h.Length != priorityLen {
			return StreamError{h.StreamID, FrameSizeError, "PRIORITY is not 5 bytes long"}
		}
	case FrameRSTStream:
		return h.need(rstStreamLen, h.needStream())
	case FrameWindowUpdate:
		return h.need(windowUpdateLen, nil) // of a stream or of the connection
	case FramePing:
		return h.need(PingLen, h.needConnection())
	case FrameSettings:
		return h.checkSettings()
	case FrameGoAway:
		if h.Length < goAwayMinLen {
			return ConnectionError{FrameSizeError, "GOAWAY is shorter than 8 bytes"}
		}
		return h.needConnection()
	case FramePushPromise:
		// A client cannot push (section 8.4), and a server must not when SETTINGS_ENABLE_PUSH is 0, which is
		// what we send (section 6.6).
		return ConnectionError{ProtocolError, "PUSH_PROMISE is not allowed"}
	}
	return nil
}

func (h FrameHeader) checkSettings() error {
	if err := h.needConnection(); err != nil {
		return err
	}
	if h.Flags.Has(FlagAck) && h.Length != 0 {
		return ConnectionError{FrameSizeError, "an acknowledgement of SETTINGS is not empty"}
	}
	if h.Length%settingLen != 0 {
		return ConnectionError{FrameSizeError, "SETTINGS is not a multiple of 6 bytes long"}
	}
	return nil
}

func (h FrameHeader) need(length uint32, err error) error {
	if err == nil && h.Length != length {
		return ConnectionError{FrameSizeError, "a frame has a length that its type cannot have"}
	}
	return err
}

func (h FrameHeader) needStream() error {
	if h.StreamID == 0 {
		return ConnectionError{ProtocolError, "a frame that belongs to a stream is on stream 0"}
	}
	return nil
}

func (h FrameHeader) needConnection() error {
	if h.StreamID != 0 {
		return ConnectionError{ProtocolError, "a frame that belongs to the connection is on a stream"}
	}
	return nil
}
