package session

import (
	"errors"

	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
)

// onFragment begins a field block. Err is what was wrong with the HEADERS around it: the block is decoded all
// the same, because it changes the decoder's table.
func (c *Conn) onFragment(h h2.FrameHeader, fragment []byte, err error) error {
	if err != nil {
		if _, ok := err.(h2.StreamError); !ok {
			return err
		}
		return h2.ConnectionError{Code: h2.ProtocolError, Reason: err.Error()}
	}
	if h.Flags.Has(h2.FlagEndHeaders) {
		return c.onBlock(h, fragment)
	}
	c.block, c.blockOf, c.fragments = append(c.block[:0], fragment...), h, 0
	c.charge()
	return nil
}

func (c *Conn) onContinuation(h h2.FrameHeader, fragment []byte) error {
	if c.blockOf.StreamID != h.StreamID {
		return h2.ConnectionError{Code: h2.ProtocolError, Reason: "CONTINUATION without HEADERS"}
	}
	c.fragments++
	if int(c.fragments) > c.group.limits.maxFragments() {
		return errFragments
	}
	if len(c.block)+len(fragment) > c.group.limits.maxBlock() {
		return errFields
	}
	c.block = append(c.block, fragment...)
	c.charge()
	if !h.Flags.Has(h2.FlagEndHeaders) {
		return nil
	}
	of := c.blockOf
	c.blockOf = h2.FrameHeader{}
	err := c.onBlock(of, c.block)
	if cap(c.block) > maxKept {
		c.block = nil
		c.charge()
	}
	return err
}

// onBlock decodes a field block, which must be done for every one and in their order, and acts on it.
func (c *Conn) onBlock(h h2.FrameHeader, block []byte) error {
	g, most := c.group, c.group.limits.MaxHeaderList
	fields, size, err := c.dec.Decode(Cleared(g.fields), block, most)
	g.fields = fields
	switch {
	case errors.Is(err, hpack.ErrTooLarge):
		return errFields
	case err != nil:
		return h2.ConnectionError{Code: h2.CompressionError, Reason: err.Error()}
	}
	c.work += int(size)
	if size > most {
		if err := c.addGlitches(g.limits.MaxGlitches/100, "field blocks that are too long"); err != nil {
			return err
		}
	}
	s := c.streams[h.StreamID]
	switch {
	case c.role == Server && h.StreamID > c.lastID:
		return c.onRequest(h, fields, size)
	case s == nil:
		return c.notOpen(h)
	case size > most:
		return h2.StreamError{StreamID: h.StreamID, Code: h2.EnhanceYourCalm, Reason: "the fields are too long"}
	case c.role == Server || s.answered:
		return c.onTrailers(s, h, fields)
	}
	return c.onResponse(s, h, fields, size)
}

// Rejection is why a request was not let in.
type Rejection uint8

// The reasons.
const (
	TooLarge Rejection = iota
	WhileDraining
	TooManyStreams
	Malformed
)

func (c *Conn) onRequest(h h2.FrameHeader, fields []hpack.Field, size uint32) error {
	if h.StreamID%2 == 0 {
		return h2.ConnectionError{Code: h2.ProtocolError, Reason: "a client opens a stream of even number"}
	}
	c.lastID = h.StreamID
	switch {
	case size > c.group.limits.MaxHeaderList:
		return c.reject(h, TooLarge, h2.EnhanceYourCalm)
	case c.finished:
		return c.reject(h, WhileDraining, h2.RefusedStream)
	case len(c.streams) >= int(c.group.limits.MaxStreams):
		return c.reject(h, TooManyStreams, h2.RefusedStream)
	}
	end := h.Flags.Has(h2.FlagEndStream)
	length, reason := checkRequest(fields)
	if reason != "" || end && length > 0 {
		return c.reject(h, Malformed, h2.ProtocolError)
	}
	s := c.handler.OnRequest()
	c.adopt(s, h.StreamID)
	s.expected, s.gotEnd = length, end
	s.handler.OnHeaders(fields, size, end)
	return nil
}

// reject resets a request that is not let in.
func (c *Conn) reject(h h2.FrameHeader, why Rejection, code h2.ErrCode) error {
	c.handler.OnRejected(why)
	window := int32(streamWindow)
	if h.Flags.Has(h2.FlagEndStream) {
		window = noMore
	}
	c.reset(h.StreamID, code, window)
	return c.glitch("stream errors")
}

// onResponse is for the field blocks that begin a response: any number of informational ones and the final one.
func (c *Conn) onResponse(s *Stream, h h2.FrameHeader, fields []hpack.Field, size uint32) error {
	end := h.Flags.Has(h2.FlagEndStream)
	length, reason := checkResponse(fields)
	if reason != "" {
		return h2.StreamError{StreamID: h.StreamID, Code: h2.ProtocolError, Reason: reason}
	}
	if fields[0].Value[0] == '1' {
		if end {
			return h2.StreamError{StreamID: h.StreamID, Code: h2.ProtocolError, Reason: "an informational response ends the stream"}
		}
		s.handler.OnInformational(fields)
		return c.glitch("informational responses")
	}
	c.useful()
	s.answered, s.gotEnd, s.expected = true, end, length
	s.handler.OnHeaders(fields, size, end)
	return nil
}

func (c *Conn) onTrailers(s *Stream, h h2.FrameHeader, fields []hpack.Field) error {
	switch {
	case s.gotEnd:
		return h2.StreamError{StreamID: h.StreamID, Code: h2.StreamClosed, Reason: "HEADERS after END_STREAM"}
	case !h.Flags.Has(h2.FlagEndStream):
		return h2.StreamError{StreamID: h.StreamID, Code: h2.ProtocolError, Reason: "trailers without END_STREAM"}
	case s.expected > 0:
		return h2.StreamError{StreamID: h.StreamID, Code: h2.ProtocolError, Reason: "less content than content-length says"}
	}
	if reason := checkTrailers(fields); reason != "" {
		return h2.StreamError{StreamID: h.StreamID, Code: h2.ProtocolError, Reason: reason}
	}
	s.gotEnd = true
	s.handler.OnTrailers(fields)
	return nil
}

// writeHeaders writes a field block.
func (c *Conn) writeHeaders(id uint32, fields []hpack.Field, end bool) {
	block := c.enc.Append(c.group.encoded[:0], fields...)
	c.out = h2.AppendHeaders(c.writable(), id, block, end, c.peer.MaxFrameSize)
	c.mark()
	c.group.encoded = kept(block)
}
