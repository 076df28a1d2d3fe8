package e2e

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rude serves a connection as a backend that speaks HTTP/2 and answers every call as it is told to.
func rude(answer func(f *http2.Framer, stream uint32)) func(net.Conn) {
	return func(c net.Conn) {
		f := http2.NewFramer(c, c)
		f.AllowIllegalWrites = true
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		f.WriteSettings()
		for {
			frame, err := f.ReadFrame()
			var ofStream http2.StreamError
			if err != nil && !errors.As(err, &ofStream) {
				return
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					f.WriteSettingsAck()
				}
			case *http2.HeadersFrame:
				answer(f, frame.StreamID)
			}
		}
	}
}

// startHTTP starts a backend that speaks HTTP/2 without gRPC, and returns its address.
func startHTTP(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var h2c http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: &h2c, Handler: answer}
	ended := make(chan struct{})
	go func() { // ends by Close
		defer close(ended)
		s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		<-ended
	})
	return l.Addr().String()
}

// listenRaw serves each connection to an address, which it returns, until the test ends. The connections must
// have ended by then.
func listenRaw(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { // ends when l closes
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { // ends when the proxy closes the connection, or serve does
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

// writeHeaders writes a HEADERS frame of the fields, given as name, value, name, value.
func writeHeaders(f *http2.Framer, stream uint32, end bool, fields ...string) {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
}
