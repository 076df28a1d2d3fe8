//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// What a backend serves: Echo sends every message back, Download sends the first one back for ever.
const (
	echoMethod     = "/bench.Bench/Echo"
	downloadMethod = "/bench.Bench/Download"
)

// gcPercent makes garbage collections rare in backends and callers, which are not what is measured.
const gcPercent = 400

// echo is a backend. It writes its address and serves until ctx ends.
func echo(ctx context.Context, out io.Writer) error {
	debug.SetGCPercent(gcPercent)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := newEchoServer()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }() // ends with Stop
	fmt.Fprintln(out, listener.Addr())
	<-ctx.Done()
	server.Stop()
	return <-served
}

func newEchoServer() *grpc.Server {
	server := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.NumStreamWorkers(16))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Bench",
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{
			{StreamName: "Echo", Handler: sendBack, ServerStreams: true, ClientStreams: true},
			{StreamName: "Download", Handler: sendForEver, ServerStreams: true},
		},
	}, nil)
	return server
}

// sendBack serves unary calls as well: on the wire they are streams of one message each way.
func sendBack(_ any, stream grpc.ServerStream) error {
	for {
		var message []byte // not used again for the next: a message that is sent belongs to the library
		err := stream.RecvMsg(&message)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = stream.SendMsg(&message)
		}
		if err != nil {
			return err
		}
	}
}

func sendForEver(_ any, stream grpc.ServerStream) error {
	var message []byte
	err := stream.RecvMsg(&message)
	for err == nil {
		err = stream.SendMsg(&message)
	}
	return err // that the caller is gone
}

// rawCodec passes messages as bytes, by *[]byte. A received message reuses the slice, if it fits.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("cannot send a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*message)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("cannot receive a %T", v)
	}
	if n := data.Len(); n <= cap(*message) {
		*message = (*message)[:n]
	} else {
		*message = make([]byte, n)
	}
	data.CopyTo(*message)
	return nil
}

// Name is empty so that content-type is plain application/grpc.
func (rawCodec) Name() string { return "" }
