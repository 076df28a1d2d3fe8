package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/lbproxy/lbproxy/discovery"
)

// A wireCall is a call frame by frame: the caller says all of its part, then the backend all of its own.
type wireCall struct {
	name    string
	caller  func(*frames)
	backend func(*frames)
	early   bool // the backend does not wait for the end of the caller's part
	noGRPC  bool // gRPC libraries make something else of it
}

const unknownEncoding = "an encoding that the proxy does not know"

var wireCalls = []wireCall{
	{
		name: "fields in their order",
		caller: func(f *frames) {
			f.headers(false, ":path", "/e2e.Wire/Call", ":authority", "hello", ":scheme", "http", ":method", "POST",
				"x-z", "1", "te", "trailers", "x-a", "2", "content-type", "application/grpc+flat", "x-z", "3",
				"grpc-accept-encoding", "snappy, gzip", "grpc-timeout", "20S", "x-b-bin", "AAEC", "x-a", "4", "user-agent", "tcpdump/1")
			f.body(true, "\x00\x00\x00\x00\x02hi")
		},
		backend: func(f *frames) {
			f.headers(false, ":status", "200", "x-z", "1", "content-type", "application/grpc+flat", "x-a", "2", "x-z", "3", "x-b-bin", "AAEC")
			f.body(false, "\x00\x00\x00\x00\x02ho")
			f.headers(true, "x-t", "1", "grpc-message", "not quite", "x-s", "2", "grpc-status", "9", "x-t", "3")
		},
	},
	{
		name:   "Trailers-Only",
		caller: func(f *frames) { f.call(true) },
		backend: func(f *frames) {
			f.headers(true, ":status", "200", "x-t", "1", "grpc-status", "5", "content-type", "application/grpc", "x-s", "2", "grpc-message", "none")
		},
	},
	{
		name: unknownEncoding,
		caller: func(f *frames) {
			f.call(false, "grpc-encoding", "snappy")
			f.body(true, "\x01\x00\x00\x00\x02??")
		},
		backend: func(f *frames) {
			f.headers(false, ":status", "200", "content-type", "application/grpc", "grpc-encoding", "snappy")
			f.body(false, "\x01\x00\x00\x00\x02!!")
			f.headers(true, "grpc-status", "0")
		},
	},
	{
		name:    "fields that must not be indexed",
		noGRPC:  true, // gRPC libraries index as they like
		caller:  func(f *frames) { f.call(true, "authorization", secret) },
		backend: func(f *frames) { f.headers(true, ":status", "200", "set-cookie", secret, "grpc-status", "0") },
	},
	{
		name:   "informational headers",
		noGRPC: true,
		caller: func(f *frames) { f.call(true) },
		backend: func(f *frames) {
			f.headers(false, ":status", "103", "link", "</style.css>")
			f.headers(false, ":status", "200", "content-type", "application/grpc")
			f.headers(true, "grpc-status", "0")
		},
	},
	{
		name:   "an answer without trailers, and one with a length",
		noGRPC: true,
		caller: func(f *frames) { f.call(true) },
		backend: func(f *frames) {
			f.headers(false, ":status", "503", "content-type", "text/plain", "content-length", "4", "server", "something")
			f.body(true, "gone")
		},
	},
	{
		name:   "a request with trailers",
		noGRPC: true,
		caller: func(f *frames) {
			f.call(false)
			f.body(false, "\x00\x00\x00\x00\x02hi")
			f.headers(true, "checksum", "1")
		},
		backend: func(f *frames) { f.headers(true, ":status", "200", "grpc-status", "0") },
	},
	{
		name:   "an answer that does not wait for the request's end",
		noGRPC: true,
		early:  true,
		caller: func(f *frames) {
			f.call(false)
			f.body(false, "\x00\x00\x00\x00\x02hi")
		},
		backend: func(f *frames) {
			f.headers(false, ":status", "200", "content-type", "application/grpc")
			f.headers(true, "grpc-status", "3")
			f.reset(http2.ErrCodeNo)
		},
	},
	wireReset(http2.ErrCodeInternal), wireReset(http2.ErrCodeCancel), wireReset(http2.ErrCodeEnhanceYourCalm),
	wireReset(http2.ErrCodeInadequateSecurity),
}

// wireReset is a call that its backend resets after the headers.
func wireReset(code http2.ErrCode) wireCall {
	return wireCall{
		name:   "a reset with " + code.String(),
		noGRPC: true,
		caller: func(f *frames) { f.call(true) },
		backend: func(f *frames) {
			f.headers(false, ":status", "200", "content-type", "application/grpc")
			f.reset(code)
		},
	}
}

// secret is the value of a field that must not be indexed.
const secret = "secret"

// frames is one end of a connection on which there is one call at a time. What it has seen of the call is a record
// in lines.
type frames struct {
	*http2.Framer
	enc    *hpack.Encoder
	block  *bytes.Buffer
	stream uint32

	saw      []string
	data     []byte // of frames that follow each other, not in saw yet
	answered bool   // the first fields that are not merely informational have come
	ended    bool   // by the other side
}

func newFrames(c net.Conn) *frames {
	f := &frames{Framer: http2.NewFramer(c, bufio.NewReader(c)), block: new(bytes.Buffer)}
	f.enc = hpack.NewEncoder(f.block)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return f
}

// call writes the fields of a gRPC call, and more, given as name, value, name, value.
func (f *frames) call(end bool, more ...string) {
	f.headers(end, append([]string{
		":method", "POST", ":scheme", "http", ":path", "/e2e.Wire/Call", ":authority", "hello",
		"te", "trailers", "content-type", "application/grpc",
	}, more...)...)
}

func (f *frames) headers(end bool, kv ...string) {
	f.block.Reset()
	for i := 0; i < len(kv); i += 2 {
		f.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1], Sensitive: kv[i+1] == secret})
	}
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: f.stream, BlockFragment: f.block.Bytes(), EndHeaders: true, EndStream: end})
}

func (f *frames) body(end bool, data string) { f.WriteData(f.stream, end, []byte(data)) }
func (f *frames) reset(code http2.ErrCode)   { f.WriteRSTStream(f.stream, code) }

// read reads a frame, and notes what the call's user would see of it.
func (f *frames) read() error {
	frame, err := f.ReadFrame()
	if err != nil {
		return err
	}
	switch frame := frame.(type) {
	case *http2.SettingsFrame:
		if !frame.IsAck() {
			return f.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !frame.IsAck() {
			return f.WritePing(true, frame.Data)
		}
	case *http2.MetaHeadersFrame:
		if frame.StreamID != f.stream { // at the backend: the next call
			*f = frames{Framer: f.Framer, enc: f.enc, block: f.block, stream: frame.StreamID}
		}
		f.noteFields(frame.Fields)
		f.noteEnd(frame.StreamEnded())
	case *http2.DataFrame:
		f.data = append(f.data, frame.Data()...)
		f.noteEnd(frame.StreamEnded())
	case *http2.RSTStreamFrame:
		f.noteData()
		f.saw = append(f.saw, "reset with "+frame.ErrCode.String())
		f.ended = true
	}
	return nil
}

func (f *frames) noteData() {
	if f.data != nil {
		f.saw = append(f.saw, "data "+shown(f.data))
		f.data = nil
	}
}

func (f *frames) noteEnd(end bool) {
	if end {
		f.noteData()
		f.saw = append(f.saw, "end")
		f.ended = true
	}
}

func (f *frames) noteFields(fields []hpack.HeaderField) {
	f.noteData()
	what := "trailer"
	switch {
	case f.answered:
	case fields[0].Name == ":status" && fields[0].Value < "200":
		what = "informational"
	case fields[0].Name == ":status":
		what, f.answered = "header", true
	default:
		what, f.answered = "metadata", true
	}
	var names, lines []string
	for _, field := range fields {
		names = append(names, field.Name)
		if field.Name == "grpc-timeout" {
			field.Value = aboutTheTimeout(field.Value)
		}
		line := fmt.Sprintf("%s %s = %q", what, field.Name, field.Value)
		if field.Sensitive {
			line += ", not to be indexed"
		}
		lines = append(lines, line)
	}
	slices.SortStableFunc(lines, func(a, b string) int {
		a, _, _ = strings.Cut(a, " = ")
		b, _, _ = strings.Cut(b, " = ")
		return strings.Compare(a, b)
	})
	f.saw = append(append(f.saw, fmt.Sprintf("%s in this order: %q", what, names)), lines...)
}

// The caller's timeout, and how much less of it the backend may see.
const (
	wireTimeout = 20 * time.Second
	wireTransit = 5 * time.Second
)

// aboutTheTimeout tells of a grpc-timeout whether it is the caller's, less some time on the way.
func aboutTheTimeout(value string) string {
	units := map[byte]time.Duration{'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}
	n, err := strconv.Atoi(value[:len(value)-1])
	left := time.Duration(n) * units[value[len(value)-1]]
	if err != nil || left > wireTimeout || left < wireTimeout-wireTransit {
		return value
	}
	return "what the caller gave, or a little less"
}

// wire is a backend that plays its part in calls frame by frame, and ways to it.
type wire struct {
	*judge
	direct, proxied string // addresses
	playing         atomic.Pointer[wireCall]
	backends        chan []string // what the backend saw of the present call
}

func newWire(t *testing.T, w *world, j *judge) *wire {
	s := &wire{judge: j, backends: make(chan []string, 1)}
	s.direct = listenRaw(t, s.serve)
	w.startRegistrar(w.client, "wire", discovery.Instance{Addr: s.direct, Weight: 1})
	p := w.startProxy(listed("wire"), boundTo("wire"))
	p.awaitReady("wire", 1)
	s.proxied = p.Addrs()[0]
	return s
}

// serve is the backend's side.
func (s *wire) serve(c net.Conn) {
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	f := newFrames(c)
	f.WriteSettings()
	var done uint32 // the last stream that has been answered
	for f.read() == nil {
		call := s.playing.Load()
		if f.stream == done || !f.ended && !call.early {
			continue
		}
		done = f.stream
		if !call.early {
			s.backends <- f.saw
		}
		call.backend(f)
	}
}

// compare makes a call on both ways and compares.
func (s *wire) compare(t *testing.T, c wireCall) {
	t.Helper()
	s.playing.Store(&c)
	wantCaller, wantBackend := s.perform(t, c, s.direct)
	caller, backend := s.perform(t, c, s.proxied)
	mustSee(t, "the caller without a proxy", wantCaller, "header in this order")
	s.mustAgree(t, c.name, atCaller, caller, wantCaller)
	s.mustAgree(t, c.name, atBackend, backend, wantBackend)
}

// perform makes a call and returns what both sides saw; of a call that does not wait for the request's end, only
// what the caller did.
func (s *wire) perform(t *testing.T, call wireCall, addr string) (caller, backend []string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := newFrames(c)
	f.stream = 1
	f.WriteSettings()
	call.caller(f)
	for !f.ended || call.early && !slices.Contains(f.saw, "reset with NO_ERROR") {
		if err := f.read(); err != nil {
			t.Fatalf("the caller has seen %q when reading fails: %v", f.saw, err)
		}
	}
	select {
	case backend = <-s.backends: // it saw the call before it answered
	default:
	}
	return f.saw, backend
}
