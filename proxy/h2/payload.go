package h2

import "encoding/binary"

// The payloads of frames whose header has passed Check. What is returned is part of payload.

// ParseData returns the data of a DATA frame. The whole payload, padding included, counts against flow control.
func ParseData(h FrameHeader, payload []byte) ([]byte, error) { return unpad(h, payload) }

// ParseHeaders returns the field block fragment of a HEADERS frame. The priority that may stand before it is
// deprecated and ignored (RFC 9113, section 5.3.2), save that a stream must not depend on itself.
func ParseHeaders(h FrameHeader, payload []byte) ([]byte, error) {
	fragment, err := unpad(h, payload)
	if err != nil || !h.Flags.Has(FlagPriority) {
		return fragment, err
	}
	if len(fragment) < priorityLen {
		return nil, ConnectionError{FrameSizeError, "HEADERS is too short for its priority"}
	}
	if err := ParsePriority(h, fragment[:priorityLen]); err != nil {
		return nil, err
	}
	return fragment[priorityLen:], nil
}

func unpad(h FrameHeader, payload []byte) ([]byte, error) {
	if !h.Flags.Has(FlagPadded) {
		return payload, nil
	}
	if len(payload) == 0 {
		return nil, ConnectionError{FrameSizeError, "a padded frame is too short for its padding's length"}
	}
	padding, rest := int(payload[0]), payload[1:]
	if padding > len(rest) {
		return nil, ConnectionError{ProtocolError, "a frame's padding is longer than the frame"}
	}
	return rest[:len(rest)-padding], nil
}

// ParsePriority reports what is wrong with a PRIORITY frame, which is otherwise ignored.
func ParsePriority(h FrameHeader, payload []byte) error {
	if binary.BigEndian.Uint32(payload)&MaxStreamID == h.StreamID {
		return StreamError{h.StreamID, ProtocolError, "a stream depends on itself"}
	}
	return nil
}

// ParseRSTStream returns why a stream was reset.
func ParseRSTStream(payload []byte) ErrCode { return ErrCode(binary.BigEndian.Uint32(payload)) }

// ParseWindowUpdate returns by how much a window grows, from 1 to MaxWindow.
func ParseWindowUpdate(h FrameHeader, payload []byte) (int32, error) {
	n := int32(binary.BigEndian.Uint32(payload) & MaxWindow)
	switch {
	case n != 0:
		return n, nil
	case h.StreamID == 0:
		return 0, ConnectionError{ProtocolError, "WINDOW_UPDATE by 0"}
	default:
		return 0, StreamError{h.StreamID, ProtocolError, "WINDOW_UPDATE by 0"}
	}
}

// ParsePing returns what is to be sent back.
func ParsePing(payload []byte) [PingLen]byte { return [PingLen]byte(payload) }

// ParseGoAway returns the last stream that the peer has processed or may process, and why it goes.
func ParseGoAway(payload []byte) (lastStreamID uint32, code ErrCode, debug []byte) {
	return binary.BigEndian.Uint32(payload) & MaxStreamID, ErrCode(binary.BigEndian.Uint32(payload[4:])), payload[8:]
}
