package h2

import "encoding/binary"

// AppendFrameHeader appends the header of a frame whose payload is to follow.
func AppendFrameHeader(dst []byte, h FrameHeader) []byte {
	dst = append(dst, byte(h.Length>>16), byte(h.Length>>8), byte(h.Length), byte(h.Type), byte(h.Flags))
	return binary.BigEndian.AppendUint32(dst, h.StreamID)
}

// AppendData appends a DATA frame; data must not be longer than the peer takes.
func AppendData(dst []byte, streamID uint32, data []byte, endStream bool) []byte {
	return append(AppendDataHeader(dst, streamID, len(data), endStream), data...)
}

// AppendDataHeader appends the header of a DATA frame, whose n bytes are to follow.
func AppendDataHeader(dst []byte, streamID uint32, n int, endStream bool) []byte {
	h := FrameHeader{Length: uint32(n), Type: FrameData, StreamID: streamID}
	if endStream {
		h.Flags = FlagEndStream
	}
	return AppendFrameHeader(dst, h)
}

// AppendHeaders appends a field block as a HEADERS frame and as many CONTINUATION frames as maxFrameSize makes
// necessary.
func AppendHeaders(dst []byte, streamID uint32, block []byte, endStream bool, maxFrameSize uint32) []byte {
	h := FrameHeader{Type: FrameHeaders, StreamID: streamID}
	if endStream {
		h.Flags = FlagEndStream
	}
	for {
		n := min(len(block), int(maxFrameSize))
		h.Length = uint32(n)
		if n == len(block) {
			h.Flags |= FlagEndHeaders
		}
		dst = append(AppendFrameHeader(dst, h), block[:n]...)
		if block = block[n:]; len(block) == 0 {
			return dst
		}
		h.Type, h.Flags = FrameContinuation, 0
	}
}

// AppendRSTStream appends a RST_STREAM frame.
func AppendRSTStream(dst []byte, streamID uint32, code ErrCode) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: rstStreamLen, Type: FrameRSTStream, StreamID: streamID})
	return binary.BigEndian.AppendUint32(dst, uint32(code))
}

// AppendWindowUpdate appends a WINDOW_UPDATE frame by n, which must be positive, for a stream, or for the
// connection if streamID is 0.
func AppendWindowUpdate(dst []byte, streamID uint32, n int32) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: windowUpdateLen, Type: FrameWindowUpdate, StreamID: streamID})
	return binary.BigEndian.AppendUint32(dst, uint32(n))
}

// AppendPing appends a PING frame, or the answer to one.
func AppendPing(dst []byte, ack bool, data [PingLen]byte) []byte {
	h := FrameHeader{Length: PingLen, Type: FramePing}
	if ack {
		h.Flags = FlagAck
	}
	return append(AppendFrameHeader(dst, h), data[:]...)
}

// AppendGoAway appends a GOAWAY frame. Debug is for people.
func AppendGoAway(dst []byte, lastStreamID uint32, code ErrCode, debug string) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: uint32(goAwayMinLen + len(debug)), Type: FrameGoAway})
	dst = binary.BigEndian.AppendUint32(dst, lastStreamID)
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	return append(dst, debug...)
}
