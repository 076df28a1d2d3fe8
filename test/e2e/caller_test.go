package e2e

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	hello "google.golang.org/grpc/examples/helloworld/helloworld"
	"google.golang.org/grpc/metadata"

	"github.com/lbproxy/lbproxy/proxy"
)

// sayHello makes one unary call and returns who answered.
func sayHello(ctx context.Context, cc grpc.ClientConnInterface, opts ...grpc.CallOption) (addr string, err error) {
	var trailer metadata.MD
	reply, err := hello.NewGreeterClient(cc).SayHello(ctx, &hello.HelloRequest{Name: "e2e"}, append(opts, grpc.Trailer(&trailer))...)
	if err != nil {
		err = callError{err, trailer}
	}
	return reply.GetMessage(), err
}

// greet says hello n times and counts who answered.
func greet(t testing.TB, cc grpc.ClientConnInterface, n int, opts ...grpc.CallOption) map[string]int {
	t.Helper()
	answers := map[string]int{}
	for range n {
		addr, err := sayHello(within(t), cc, opts...)
		if err != nil {
			t.Fatal(err)
		}
		answers[addr]++
	}
	return answers
}

// conversation is a stream both ways in which every message is answered.
type conversation struct{ grpc.ClientStream }

// converse opens a stream to whoever the caller's next call goes to.
func converse(ctx context.Context, cc grpc.ClientConnInterface, method string) (conversation, error) {
	both := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := cc.NewStream(ctx, both, method)
	return conversation{stream}, err
}

// ask sends a message and returns who answers.
func (c conversation) ask() (addr string, err error) {
	if err := c.SendMsg(&hello.HelloRequest{}); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	var reply hello.HelloReply
	if err := c.RecvMsg(&reply); err != nil {
		return "", c.ended(err)
	}
	return reply.Message, nil
}

// end says that no more messages come and returns the status of the call; nil for OK.
func (c conversation) end() error {
	if err := c.CloseSend(); err != nil {
		return err
	}
	if err := c.RecvMsg(&hello.HelloReply{}); !errors.Is(err, io.EOF) {
		return c.ended(err)
	}
	return nil
}

// listen waits for a message that nobody asked for, and so for the end of the call.
func (c conversation) listen() error { return c.ended(c.RecvMsg(&hello.HelloReply{})) }

func (c conversation) ended(err error) error { return callError{err, c.Trailer()} }

// callError is a status with the trailers that came with it.
type callError struct {
	error
	trailer metadata.MD
}

func (e callError) Unwrap() error { return e.error }

// reasonOf is why the proxy itself failed a call; empty if the status is not the proxy's.
func reasonOf(err error) string {
	var e callError
	if !errors.As(err, &e) {
		return ""
	}
	return strings.Join(e.trailer[proxy.ErrorTrailer], ",")
}

// converse opens a stream to an instance of a service.
func (p *lbproxy) converse(ctx context.Context, service string) conversation {
	p.t.Helper()
	c, err := converse(ctx, p.dial(service), "/e2e.Talk/Converse")
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// mustAsk is ask where an answer must come.
func (p *lbproxy) mustAsk(c conversation) (addr string) {
	p.t.Helper()
	addr, err := c.ask()
	if err != nil {
		p.t.Fatal(err)
	}
	return addr
}
