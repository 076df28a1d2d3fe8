package relay

import (
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/proxy/h2"
	"github.com/lbproxy/lbproxy/proxy/h2/hpack"
	"github.com/lbproxy/lbproxy/traffic"
)

// fieldsSize is the size of fields, as SETTINGS_MAX_HEADER_LIST_SIZE counts.
func fieldsSize(fields []hpack.Field) (n int) {
	for i := range fields {
		n += int(fields[i].Size())
	}
	return n
}

// onFragment begins a field block. Err is what was wrong with the HEADERS around it: the block is decoded all
// the same, because it changes the decoder's table.
func (c *conn) onFragment(h h2.FrameHeader, fragment []byte, err error) error {
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
	c.core.chargeConn(c)
	return nil
}

func (c *conn) onContinuation(h h2.FrameHeader, fragment []byte) error {
	if c.blockOf.StreamID != h.StreamID {
		return h2.ConnectionError{Code: h2.ProtocolError, Reason: "CONTINUATION without HEADERS"}
	}
	c.fragments++
	if int(c.fragments) > c.core.cfg.maxFragments() {
		return errFragments
	}
	if len(c.block)+len(fragment) > c.core.cfg.maxBlock() {
		return errFields
	}
	c.block = append(c.block, fragment...)
	c.core.chargeConn(c)
	if !h.Flags.Has(h2.FlagEndHeaders) {
		return nil
	}
	of := c.blockOf
	c.blockOf = h2.FrameHeader{}
	err := c.onBlock(of, c.block)
	if cap(c.block) > maxKept {
		c.block = nil
		c.core.chargeConn(c)
	}
	return err
}

// onBlock decodes a field block, which must be done for every one and in their order, and acts on it.
func (c *conn) onBlock(h h2.FrameHeader, block []byte) error {
	core := c.core
	var err error
	core.fields, core.size, err = c.dec.Decode(cleared(core.fields), block, core.cfg.MaxHeaderList)
	switch {
	case errors.Is(err, hpack.ErrTooLarge):
		return errFields
	case err != nil:
		return h2.ConnectionError{Code: h2.CompressionError, Reason: err.Error()}
	}
	c.work += int(core.size)
	if core.size > core.cfg.MaxHeaderList {
		if err := c.addGlitches(core.cfg.MaxGlitches/100, "field blocks that are too long"); err != nil {
			return err
		}
	}
	x := c.streams[h.StreamID]
	if c.side == caller && h.StreamID > c.lastID {
		return c.onRequest(h)
	}
	if x == nil {
		return c.notOpen(h)
	}
	if core.size > core.cfg.MaxHeaderList {
		return h2.StreamError{StreamID: h.StreamID, Code: h2.EnhanceYourCalm, Reason: "the fields are too long"}
	}
	if c.side == caller || x.answered {
		return c.onTrailers(x, h)
	}
	return c.onResponse(x, h)
}

func (c *conn) onRequest(h h2.FrameHeader) error {
	core := c.core
	if h.StreamID%2 == 0 {
		return h2.ConnectionError{Code: h2.ProtocolError, Reason: "a client opens a stream of even number"}
	}
	c.lastID = h.StreamID
	switch {
	case core.size > core.cfg.MaxHeaderList:
		return c.reject(h, metrics.TooLarge, h2.EnhanceYourCalm)
	case c.finished:
		return c.reject(h, metrics.WhileDraining, h2.RefusedStream)
	case len(c.streams) >= int(core.cfg.MaxStreams):
		return c.reject(h, metrics.TooManyStreams, h2.RefusedStream)
	}
	length, reason := checkRequest(core.fields)
	if reason != "" || h.Flags.Has(h2.FlagEndStream) && length > 0 {
		return c.reject(h, metrics.Malformed, h2.ProtocolError)
	}
	core.size += nameAuthority(core.fields)
	x := core.newExchange()
	x.owner, x.began, x.since, x.replayable, x.code = c, core.now, core.now, true, codes.Unknown
	x.request, x.size = append(x.request, core.fields...), core.size
	in := &x.streams[caller]
	in.conn, in.id, in.expected = c, h.StreamID, length
	in.send, in.recv = h2.SendWindow(c.peer.InitialWindowSize), h2.NewReceiveWindow(streamWindow, updateLump)
	c.streams[h.StreamID] = x
	core.charge(x)
	if h.Flags.Has(h2.FlagEndStream) {
		in.gotEnd = true
		x.streams[backend].last = endStream
	}
	core.begin(x, c.listener)
	return nil
}

// reject resets a request of which no call is made.
func (c *conn) reject(h h2.FrameHeader, why metrics.Rejection, code h2.ErrCode) error {
	c.core.metrics.RequestRejected(why)
	window := int32(streamWindow)
	if h.Flags.Has(h2.FlagEndStream) {
		window = noMore
	}
	c.reset(h.StreamID, code, window)
	return c.glitch("stream errors")
}

// begin routes the call and picks its endpoint.
func (c *core) begin(x *exchange, l *listener) {
	r := &c.request
	*r = traffic.Request{Listener: l.addr, Bound: l.service, Header: requestHeader{x}}
	ours := false
	for i := range x.request {
		field := &x.request[i]
		ours = ours || strings.HasPrefix(field.Name, traffic.MetadataPrefix)
		switch field.Name {
		case ":path":
			r.Method = field.Value
		case ":authority":
			r.Authority = field.Value
		case traffic.ServiceKey:
			r.Service = field.Value
		case traffic.VersionKey:
			r.Version = field.Value
		case "grpc-timeout":
			if d, ok := parseTimeout(field.Value); ok {
				x.deadline = x.began.Add(d)
			}
		}
	}
	if err := l.router.Begin(&x.call, r, x.began); err != nil {
		x.fail(c, err)
		return
	}
	if ours {
		x.consume(c)
	}
	x.setTimer(c)
	x.pick(c)
}

// consume takes out of the request what is the proxy's own.
func (x *exchange) consume(c *core) {
	x.request = slices.DeleteFunc(x.request, func(f hpack.Field) bool { return strings.HasPrefix(f.Name, traffic.MetadataPrefix) })
	x.resized(c)
}

// age makes the request say how much of the caller's time is left. A call that did not wait keeps its time untouched:
// what has passed is below the precision of timeouts.
func (x *exchange) age(c *core) {
	if x.deadline.IsZero() || c.now.Sub(x.began) <= time.Millisecond {
		return
	}
	left := formatTimeout(x.deadline.Sub(c.now))
	for i, f := range x.request {
		if f.Name == "grpc-timeout" {
			x.request[i] = hpack.Field{Name: f.Name, Value: left, Sensitive: f.Sensitive}
		}
	}
	x.resized(c)
}

// resized notes that the request's fields have changed.
func (x *exchange) resized(c *core) {
	x.size = uint32(fieldsSize(x.request))
	c.charge(x)
}

// requestHeader looks fields of a request up for routes.
type requestHeader struct{ st *exchange }

func (h requestHeader) Get(key string) (values []string) {
	for _, f := range h.st.request {
		if f.Name == key {
			values = append(values, f.Value)
		}
	}
	return values
}

// onResponse is for the field blocks that begin a response: any number of informational ones and the final one.
func (c *conn) onResponse(x *exchange, h h2.FrameHeader) error {
	fields, end := c.core.fields, h.Flags.Has(h2.FlagEndStream)
	length, reason := checkResponse(fields)
	if reason != "" {
		return h2.StreamError{StreamID: h.StreamID, Code: h2.ProtocolError, Reason: reason}
	}
	in := &x.streams[backend]
	if fields[0].Value[0] == '1' {
		if end {
			return h2.StreamError{StreamID: h.StreamID, Code: h2.ProtocolError, Reason: "an informational response ends the stream"}
		}
		x.headers(backend, fields, false)
		return c.glitch("informational responses")
	}
	c.useful()
	x.answered = true
	x.setStage(answering, c.core.now)
	c.core.dropRetryBuffer(x)
	in.expected = length
	x.begins(fields)
	if end {
		x.ends(fields)
		x.responseEnded()
	}
	x.headers(backend, fields, end)
	return nil
}

func (c *conn) onTrailers(x *exchange, h h2.FrameHeader) error {
	in := &x.streams[c.side]
	switch {
	case in.gotEnd:
		return h2.StreamError{StreamID: h.StreamID, Code: h2.StreamClosed, Reason: "HEADERS after END_STREAM"}
	case !h.Flags.Has(h2.FlagEndStream):
		return h2.StreamError{StreamID: h.StreamID, Code: h2.ProtocolError, Reason: "trailers without END_STREAM"}
	case in.expected > 0:
		return h2.StreamError{StreamID: h.StreamID, Code: h2.ProtocolError, Reason: "less content than content-length says"}
	}
	if reason := checkTrailers(c.core.fields); reason != "" {
		return h2.StreamError{StreamID: h.StreamID, Code: h2.ProtocolError, Reason: reason}
	}
	if c.side == backend {
		x.ends(c.core.fields)
		x.responseEnded()
	} else {
		in.gotEnd = true
		x.replayable = false // trailers are not kept
	}
	x.headers(c.side, c.core.fields, true)
	return nil
}

// writeRequest writes the call's field block.
func (c *conn) writeRequest(x *exchange, end bool) {
	before := len(c.out)
	c.writeHeaders(x.streams[backend].id, x.request, end)
	c.requests += len(c.out) - before
}

// writeHeaders writes a field block.
func (c *conn) writeHeaders(id uint32, fields []hpack.Field, end bool) {
	block := c.enc.Append(c.core.encoded[:0], fields...)
	c.out = h2.AppendHeaders(c.writable(), id, block, end, c.peer.MaxFrameSize)
	c.mark()
	c.core.encoded = kept(block)
}
