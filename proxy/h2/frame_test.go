package h2_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

// What is appended, golang.org/x/net/http2 reads as what was meant.
func TestFramesAreWhatTheySay(t *testing.T) {
	block := bytes.Repeat([]byte("x"), 40_000)
	var b []byte
	b = h2.AppendSettings(b, h2.Setting{ID: h2.SettingInitialWindowSize, Value: 1 << 20}, h2.Setting{ID: h2.SettingMaxConcurrentStreams, Value: 100})
	b = h2.AppendSettingsAck(b)
	b = h2.AppendHeaders(b, 5, block, true, h2.MinMaxFrameSize)
	b = h2.AppendData(b, 5, []byte("hello"), true)
	b = h2.AppendRSTStream(b, 7, h2.Cancel)
	b = h2.AppendWindowUpdate(b, 0, h2.MaxWindow)
	b = h2.AppendPing(b, true, [8]byte{1, 2, 3})
	b = h2.AppendGoAway(b, h2.MaxStreamID, h2.EnhanceYourCalm, "calm")

	framer := http2.NewFramer(nil, bytes.NewReader(b))
	framer.AllowIllegalReads = true
	next := func() http2.Frame {
		t.Helper()
		f, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	settings := next().(*http2.SettingsFrame)
	if v, ok := settings.Value(http2.SettingInitialWindowSize); !ok || v != 1<<20 || settings.NumSettings() != 2 {
		t.Errorf("settings = %v", settings)
	}
	if f := next().(*http2.SettingsFrame); !f.IsAck() {
		t.Errorf("settings ack = %v", f)
	}
	headers := next().(*http2.HeadersFrame)
	if !headers.StreamEnded() || headers.HeadersEnded() || headers.StreamID != 5 {
		t.Errorf("headers = %v", headers)
	}
	got := bytes.Clone(headers.HeaderBlockFragment())
	for ended := false; !ended; {
		f := next().(*http2.ContinuationFrame)
		got, ended = append(got, f.HeaderBlockFragment()...), f.HeadersEnded()
	}
	if !bytes.Equal(got, block) {
		t.Errorf("a block of %d bytes came as %d others", len(block), len(got))
	}
	if f := next().(*http2.DataFrame); string(f.Data()) != "hello" || !f.StreamEnded() {
		t.Errorf("data = %v", f)
	}
	if f := next().(*http2.RSTStreamFrame); f.ErrCode != http2.ErrCodeCancel || f.StreamID != 7 {
		t.Errorf("rst_stream = %v", f)
	}
	if f := next().(*http2.WindowUpdateFrame); f.Increment != h2.MaxWindow || f.StreamID != 0 {
		t.Errorf("window_update = %v", f)
	}
	if f := next().(*http2.PingFrame); !f.IsAck() || f.Data != [8]byte{1, 2, 3} {
		t.Errorf("ping = %v", f)
	}
	if f := next().(*http2.GoAwayFrame); f.LastStreamID != h2.MaxStreamID || f.ErrCode != http2.ErrCodeEnhanceYourCalm || string(f.DebugData()) != "calm" {
		t.Errorf("goaway = %v", f)
	}
}

func TestAnEmptyBlockIsOneFrame(t *testing.T) {
	got := h2.AppendHeaders(nil, 1, nil, false, h2.MinMaxFrameSize)
	want := h2.AppendFrameHeader(nil, h2.FrameHeader{Type: h2.FrameHeaders, Flags: h2.FlagEndHeaders, StreamID: 1})
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("-got +want:\n%s", diff)
	}
}

func TestFrameHeadersThatCannotBe(t *testing.T) {
	type header = h2.FrameHeader
	for _, c := range []struct {
		name string
		h    header
		want error // nil: it can
	}{
		{"data", header{16384, h2.FrameData, 0, 1}, nil},
		{"data too long", header{16385, h2.FrameData, 0, 1}, h2.ConnectionError{Code: h2.FrameSizeError}},
		{"data on stream 0", header{0, h2.FrameData, 0, 0}, h2.ConnectionError{Code: h2.ProtocolError}},
		{"headers on stream 0", header{1, h2.FrameHeaders, 0, 0}, h2.ConnectionError{Code: h2.ProtocolError}},
		{"continuation on stream 0", header{1, h2.FrameContinuation, 0, 0}, h2.ConnectionError{Code: h2.ProtocolError}},
		{"priority", header{5, h2.FramePriority, 0, 3}, nil},
		{"priority of 4 bytes", header{4, h2.FramePriority, 0, 3}, h2.StreamError{StreamID: 3, Code: h2.FrameSizeError}},
		{"priority on stream 0", header{5, h2.FramePriority, 0, 0}, h2.ConnectionError{Code: h2.ProtocolError}},
		{"rst_stream", header{4, h2.FrameRSTStream, 0, 3}, nil},
		{"rst_stream of 5 bytes", header{5, h2.FrameRSTStream, 0, 3}, h2.ConnectionError{Code: h2.FrameSizeError}},
		{"rst_stream on stream 0", header{4, h2.FrameRSTStream, 0, 0}, h2.ConnectionError{Code: h2.ProtocolError}},
		{"settings", header{12, h2.FrameSettings, 0, 0}, nil},
		{"settings of 13 bytes", header{13, h2.FrameSettings, 0, 0}, h2.ConnectionError{Code: h2.FrameSizeError}},
		{"settings on a stream", header{12, h2.FrameSettings, 0, 1}, h2.ConnectionError{Code: h2.ProtocolError}},
		{"settings ack", header{0, h2.FrameSettings, h2.FlagAck, 0}, nil},
		{"settings ack of 6 bytes", header{6, h2.FrameSettings, h2.FlagAck, 0}, h2.ConnectionError{Code: h2.FrameSizeError}},
		{"push_promise", header{8, h2.FramePushPromise, 0, 1}, h2.ConnectionError{Code: h2.ProtocolError}},
		{"ping", header{8, h2.FramePing, 0, 0}, nil},
		{"ping of 7 bytes", header{7, h2.FramePing, 0, 0}, h2.ConnectionError{Code: h2.FrameSizeError}},
		{"ping on a stream", header{8, h2.FramePing, 0, 1}, h2.ConnectionError{Code: h2.ProtocolError}},
		{"goaway", header{8, h2.FrameGoAway, 0, 0}, nil},
		{"goaway of 7 bytes", header{7, h2.FrameGoAway, 0, 0}, h2.ConnectionError{Code: h2.FrameSizeError}},
		{"goaway on a stream", header{8, h2.FrameGoAway, 0, 1}, h2.ConnectionError{Code: h2.ProtocolError}},
		{"window_update of a stream", header{4, h2.FrameWindowUpdate, 0, 1}, nil},
		{"window_update of the connection", header{4, h2.FrameWindowUpdate, 0, 0}, nil},
		{"window_update of 3 bytes", header{3, h2.FrameWindowUpdate, 0, 1}, h2.ConnectionError{Code: h2.FrameSizeError}},
		{"unknown", header{99, 0x42, 0xff, 17}, nil},
		{"unknown too long", header{16385, 0x42, 0xff, 17}, h2.ConnectionError{Code: h2.FrameSizeError}},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkError(t, c.h.Check(h2.MinMaxFrameSize), c.want)
		})
	}
}

// checkError compares all but the reason.
func checkError(t *testing.T, got, want error) {
	t.Helper()
	var connection h2.ConnectionError
	if errors.As(got, &connection) {
		connection.Reason = ""
		got = connection
	}
	var stream h2.StreamError
	if errors.As(got, &stream) {
		stream.Reason = ""
		got = stream
	}
	if got != want {
		t.Errorf("error = %v, want %v", got, want)
	}
}

func TestPayloads(t *testing.T) {
	data := func(flags h2.Flags, payload string) func() (string, error) {
		return func() (string, error) {
			b, err := h2.ParseData(h2.FrameHeader{Type: h2.FrameData, Flags: flags, StreamID: 1}, []byte(payload))
			return string(b), err
		}
	}
	headers := func(flags h2.Flags, payload string) func() (string, error) {
		return func() (string, error) {
			b, err := h2.ParseHeaders(h2.FrameHeader{Type: h2.FrameHeaders, Flags: flags, StreamID: 1}, []byte(payload))
			return string(b), err
		}
	}
	for _, c := range []struct {
		name  string
		parse func() (string, error)
		want  string
		err   error
	}{
		{"data", data(0, "hello"), "hello", nil},
		{"empty data", data(0, ""), "", nil},
		{"padded", data(h2.FlagPadded, "\x02hello\x00\x00"), "hello", nil},
		{"padded by nothing", data(h2.FlagPadded, "\x00hello"), "hello", nil},
		{"nothing but padding", data(h2.FlagPadded, "\x02\x00\x00"), "", nil},
		{"padded beyond the end", data(h2.FlagPadded, "\x03\x00\x00"), "", h2.ConnectionError{Code: h2.ProtocolError}},
		{"padded and empty", data(h2.FlagPadded, ""), "", h2.ConnectionError{Code: h2.FrameSizeError}},
		{"headers", headers(0, "block"), "block", nil},
		{"with priority", headers(h2.FlagPriority, "\x80\x00\x00\x03\xffblock"), "block", nil},
		{"with padding and priority", headers(h2.FlagPadded|h2.FlagPriority, "\x01\x00\x00\x00\x03\xffblock\x00"), "block", nil},
		{"depends on itself", headers(h2.FlagPriority, "\x80\x00\x00\x01\xffblock"), "", h2.StreamError{StreamID: 1, Code: h2.ProtocolError}},
		{"too short for its priority", headers(h2.FlagPriority, "\x00\x00\x00\x03"), "", h2.ConnectionError{Code: h2.FrameSizeError}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.parse()
			checkError(t, err, c.err)
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestWindowUpdates(t *testing.T) {
	for _, c := range []struct {
		stream  uint32
		payload []byte
		want    int32
		err     error
	}{
		{1, []byte{0, 0, 0, 1}, 1, nil},
		{0, []byte{0xff, 0xff, 0xff, 0xff}, h2.MaxWindow, nil}, // the reserved bit is ignored
		{0, []byte{0, 0, 0, 0}, 0, h2.ConnectionError{Code: h2.ProtocolError}},
		{3, []byte{0x80, 0, 0, 0}, 0, h2.StreamError{StreamID: 3, Code: h2.ProtocolError}},
	} {
		got, err := h2.ParseWindowUpdate(h2.FrameHeader{StreamID: c.stream}, c.payload)
		checkError(t, err, c.err)
		if got != c.want {
			t.Errorf("stream %d, %x: grows by %d, want %d", c.stream, c.payload, got, c.want)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	var frames []byte
	frames = h2.AppendHeaders(frames, 1, make([]byte, 40), false, h2.MinMaxFrameSize)
	frames = h2.AppendData(frames, 1, make([]byte, 100), true)
	frames = h2.AppendPing(frames, false, [8]byte{})
	frames = h2.AppendWindowUpdate(frames, 0, 100)
	b.ReportAllocs()
	for b.Loop() {
		for in := frames; len(in) > 0; {
			h := h2.ParseFrameHeader(in)
			if err := h.Check(h2.MinMaxFrameSize); err != nil {
				b.Fatal(err)
			}
			payload := in[h2.FrameHeaderLen : h2.FrameHeaderLen+h.Length]
			in = in[h2.FrameHeaderLen+h.Length:]
			switch h.Type {
			case h2.FrameHeaders:
				h2.ParseHeaders(h, payload)
			case h2.FrameData:
				h2.ParseData(h, payload)
			case h2.FramePing:
				h2.ParsePing(payload)
			case h2.FrameWindowUpdate:
				h2.ParseWindowUpdate(h, payload)
			}
		}
	}
}
