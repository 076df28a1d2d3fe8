package session

import "github.com/lbproxy/lbproxy/proxy/h2"

// ReadBuf is where to read to, until ReleaseReadBuf: a buffer that all connections of the group share.
func (c *Conn) ReadBuf() []byte {
	c.r, c.w, c.in = 0, copy(c.group.readBuffer, c.in[c.r:c.w]), c.group.readBuffer
	if c.unparsed != nil {
		c.group.storage.put(c.unparsed)
		c.unparsed = nil
		c.charge()
	}
	return c.in[c.w:]
}

// ReleaseReadBuf frees the shared buffer for others: what has not been parsed moves to memory of our own. Nothing is
// borrowed any more.
func (c *Conn) ReleaseReadBuf() {
	left := c.in[c.r:c.w]
	c.in, c.r, c.w = nil, 0, len(left)
	if len(left) > 0 && !c.dead {
		c.unparsed = c.group.storage.getAll(len(left))
		c.unparsed.data = append(c.unparsed.data, left...)
		c.in = c.unparsed.data
		c.charge()
	}
}

// Feed parses n more bytes, which have been read to ReadBuf. True: it stopped after maxWork; call it again with 0 when
// others have had their turn.
func (c *Conn) Feed(n int) (more bool) {
	c.w += n
	c.work = 0
	c.heard = c.group.now
	if !c.recognize() {
		return false
	}
	more, err := c.parse()
	if err != nil {
		c.Fail(err)
		return false
	}
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	return more
}

// recognize reads how the peer begins, as far as that has come. It returns false if it speaks something else, which has
// ended the connection.
func (c *Conn) recognize() bool {
	said := c.in[c.r:c.w]
	switch {
	case c.preface > 0:
		if said = c.readPreface(); said == nil {
			return true
		}
	case c.role == Server, c.greeted:
		return true
	}
	answer, err := c.handler.Recognize(said)
	if err == nil {
		return true
	}
	if len(answer) > 0 && !c.introduced {
		c.out = append(c.writable(), answer...)
		c.mark()
	}
	c.Close(err)
	return false
}

// readPreface reads how HTTP/2 begins, as far as it has come. It returns what has come instead.
func (c *Conn) readPreface() (said []byte) {
	for ; c.preface > 0 && c.r < c.w; c.r++ {
		known := h2.ClientPreface[:len(h2.ClientPreface)-int(c.preface)]
		if c.in[c.r] != h2.ClientPreface[len(known)] {
			return append([]byte(known), c.in[c.r:c.w]...)
		}
		c.preface--
	}
	if c.preface == 0 {
		c.introduce()
	}
	return nil
}

func (c *Conn) parse() (more bool, err error) {
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
		c.handler.OnFrame()
	}
	return false, nil
}

func (c *Conn) frame(h h2.FrameHeader, payload []byte) error {
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
