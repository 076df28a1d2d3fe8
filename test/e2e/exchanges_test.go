package e2e

import (
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// scene is an exchange and what there must be to see in it, among other things, in this order.
type scene struct {
	exchange
	callerSees, backendSees []string
}

// exchanges is everything that calls are made of.
var exchanges = []scene{
	{
		exchange: exchange{
			name: "headers before the first message",
			caller: func(p *party) {
				p.header() // the backend waits for a message that comes only after its headers have
				p.send("ping")
				p.recv()
			},
			backend: func(p *party) error {
				p.sendHeader("early", "yes")
				p.recv()
				p.send("pong")
				p.recvAll()
				return nil
			},
		},
		callerSees:  []string{"headers are here", `header early = ["yes"]`, `message "pong"`, "no more messages: EOF"},
		backendSees: []string{`message "ping"`, "no more messages: EOF"},
	},
	{
		exchange: exchange{
			name: "headers of a call that fails",
			backend: func(p *party) error {
				p.sendHeader("early", "yes")
				return status.Error(codes.FailedPrecondition, "not now")
			},
		},
		callerSees: []string{"no more messages: rpc error: code = FailedPrecondition desc = not now", `header early = ["yes"]`},
	},
	{
		exchange: exchange{
			name: "headers that leave with the status",
			backend: func(p *party) error {
				p.setHeader("late", "yes")
				return status.Error(codes.NotFound, "nothing there")
			},
		},
		callerSees: []string{"no more messages: rpc error: code = NotFound", `header late = ["yes"]`},
	},
	{
		exchange: exchange{
			name: "trailers",
			backend: func(p *party) error {
				p.send("one")
				p.send("two")
				p.setTrailer("checksum", "1", "trace", "2")
				return nil
			},
		},
		callerSees: []string{`message "one"`, `message "two"`, "no more messages: EOF", `trailer checksum = ["1"]`, `trailer trace = ["2"]`},
	},
	{
		exchange: exchange{
			name: "trailers only",
			backend: func(p *party) error {
				p.setTrailer("why", "because")
				return status.Error(codes.PermissionDenied, "no")
			},
		},
		callerSees: []string{
			"no more messages: rpc error: code = PermissionDenied desc = no", "headers are here, error <nil>", "encoding", `trailer why`,
		},
	},
	{
		exchange:    exchange{name: "empty stream", backend: func(p *party) error { p.recvAll(); return nil }},
		callerSees:  []string{"no more messages: EOF"},
		backendSees: []string{"no more messages: EOF"},
	},
	{
		exchange: exchange{
			name:   "empty messages",
			caller: func(p *party) { p.send(""); p.send("") },
			backend: func(p *party) error {
				p.recvAll()
				p.send("")
				return nil
			},
		},
		callerSees:  []string{`message ""`, "no more messages: EOF"},
		backendSees: []string{`message ""`, `message ""`, "no more messages: EOF"},
	},
	{
		exchange: exchange{
			name:   "unary",
			desc:   &grpc.StreamDesc{},
			caller: func(p *party) { p.send("question") },
			backend: func(p *party) error {
				p.recvAll()
				p.send("answer")
				return nil
			},
		},
		callerSees:  []string{`message "answer"`, "no more messages: EOF"},
		backendSees: []string{`message "question"`, "no more messages: EOF"},
	},
	{
		exchange: exchange{
			name:   "server streaming",
			desc:   &grpc.StreamDesc{ServerStreams: true},
			caller: func(p *party) { p.send("question") },
			backend: func(p *party) error {
				p.recvAll()
				for range 3 {
					p.send("answer")
				}
				return status.Error(codes.OutOfRange, "that was all")
			},
		},
		callerSees:  []string{`message "answer"`, `message "answer"`, `message "answer"`, "no more messages: rpc error: code = OutOfRange"},
		backendSees: []string{`message "question"`, "no more messages: EOF"},
	},
	{
		exchange: exchange{
			name:   "client streaming",
			desc:   &grpc.StreamDesc{ClientStreams: true},
			caller: func(p *party) { p.send("one"); p.send("two"); p.closeSend() },
			backend: func(p *party) error {
				p.recvAll()
				p.send("answer")
				return nil
			},
		},
		callerSees:  []string{`message "answer"`, "no more messages: EOF"},
		backendSees: []string{`message "one"`, `message "two"`, "no more messages: EOF"},
	},
	{
		exchange:    echoed("messages larger than any window", fiveMebibytes),
		callerSees:  []string{"message of 5242880 bytes", "no more messages: EOF"},
		backendSees: []string{"message of 5242880 bytes", "no more messages: EOF"},
	},
	{
		exchange:    echoed("large messages in gzip", fiveMebibytes[:1<<20], grpc.UseCompressor(gzip.Name)),
		callerSees:  []string{"message of 1048576 bytes", `encoding "gzip"`},
		backendSees: []string{`encoding "gzip"`, "message of 1048576 bytes"},
	},
	{
		exchange:    echoed("empty messages in gzip", "", grpc.UseCompressor(gzip.Name)),
		callerSees:  []string{`message ""`, `encoding "gzip"`},
		backendSees: []string{`encoding "gzip"`, `message ""`},
	},
	{
		exchange: exchange{
			name:  "duplicate keys",
			sends: metadata.Pairs("k", "b", "k", "a", "k", "b"),
			backend: func(p *party) error {
				p.sendHeader("h", "2", "h", "1", "h", "2")
				p.setTrailer("t", "2", "t", "1", "t", "2")
				return nil
			},
		},
		callerSees:  []string{`header h = ["2" "1" "2"]`, `trailer t = ["2" "1" "2"]`},
		backendSees: []string{`metadata k = ["b" "a" "b"]`},
	},
	{
		exchange: exchange{
			name:  "binary metadata",
			sends: metadata.Pairs("k-bin", everyByte, "k-bin", "", "k-bin", "\x00"),
			backend: func(p *party) error {
				p.sendHeader("h-bin", everyByte, "h-bin", "\xff")
				p.setTrailer("t-bin", everyByte, "t-bin", "")
				return status.Error(codes.Aborted, "with metadata")
			},
		},
		callerSees:  []string{fmt.Sprintf("header h-bin = %q", []string{everyByte, "\xff"}), "trailer t-bin"},
		backendSees: []string{fmt.Sprintf("metadata k-bin = %q", []string{everyByte, "", "\x00"})},
	},
	{
		exchange: exchange{
			name: "metadata of all sorts",
			sends: metadata.Pairs("authorization", "Bearer x.y.z", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
				"grpc-trace-bin", "\x00\x01", "grpc-previous-rpc-attempts", "2", "x-printable", " !\"#$%&'()*+,-./:;<=>?@[]^_`{|}~ ", "x-empty", "",
				"x-long", strings.Repeat("0123456789", 600)),
			backend: func(p *party) error { return nil },
		},
		backendSees: []string{
			`metadata :authority = ["hello"]`, "metadata authorization", "metadata traceparent", "metadata x-empty", "metadata x-long",
		},
	},
	{
		exchange: exchange{
			name:    "metadata for the proxy",
			sends:   metadata.Pairs("kept", "yes"),
			proxied: metadata.Pairs("lbproxy-service", "hello", "lbproxy-version", "1.0.0", "lbproxy-anything", "else", "lbproxy-x-bin", "\x00"),
			backend: func(p *party) error { return nil },
		},
		backendSees: []string{`metadata kept = ["yes"]`},
	},
	{
		exchange: exchange{
			name: "details of a status",
			backend: func(p *party) error {
				s, err := status.New(codes.ResourceExhausted, "too much").WithDetails(
					durationpb.New(7), wrapperspb.Bytes([]byte(everyByte)))
				if err != nil {
					return err
				}
				return s.Err()
			},
		},
		callerSees: []string{"no more messages: rpc error: code = ResourceExhausted desc = too much", "trailer grpc-status-details-bin"},
	},
	{
		exchange: exchange{
			name:    "message of a status in all letters",
			backend: func(p *party) error { return status.Error(codes.DataLoss, "\t100 % of\r\n☺ 😈 \"lost\"\x00\n") },
		},
		callerSees: []string{"no more messages: rpc error: code = DataLoss desc = \t100 % of"},
	},
	{
		exchange: exchange{
			name:    "code that gRPC does not know",
			backend: func(p *party) error { return status.Error(codes.Code(4711), "home-made") },
		},
		callerSees: []string{"no more messages: rpc error: code = Code(4711) desc = home-made"},
	},
	{
		exchange: exchange{
			name:   "caller closes first",
			caller: func(p *party) { p.send("question") },
			backend: func(p *party) error {
				p.recvAll()
				for i := range 50 {
					p.send(fmt.Sprint("answer ", i))
				}
				return nil
			},
		},
		callerSees:  []string{`message "answer 0"`, `message "answer 49"`, "no more messages: EOF"},
		backendSees: []string{`message "question"`, "no more messages: EOF"},
	},
	{
		exchange: exchange{
			name: "backend ends first",
			caller: func(p *party) {
				p.send("question")
				p.recv()
				p.recv() // the end of a call whose caller has not closed
			},
			backend: func(p *party) error {
				p.recv()
				p.send("answer")
				return nil
			},
		},
		callerSees:  []string{`message "answer"`, "no more messages: EOF"},
		backendSees: []string{`message "question"`},
	},
	{
		exchange: exchange{
			name: "backend refuses what is still being sent",
			caller: func(p *party) {
				for range 100 {
					p.send(strings.Repeat("x", 64<<10))
				}
			},
			backend: func(p *party) error {
				p.recv()
				return status.Error(codes.InvalidArgument, "enough")
			},
		},
		callerSees: []string{"no more messages: rpc error: code = InvalidArgument desc = enough"},
	},
	{
		exchange: exchange{
			name: "many messages both ways",
			caller: func(p *party) {
				for i := range 300 {
					p.send(strings.Repeat("x", i*7))
					p.recv()
				}
			},
			backend: func(p *party) error {
				for p.recv() == nil {
					p.send(p.saw[len(p.saw)-1])
				}
				return nil
			},
		},
		callerSees:  []string{"message", "no more messages: EOF"},
		backendSees: []string{"message", "no more messages: EOF"},
	},
	{
		exchange: exchange{
			name:    "messages that are not protobuf",
			options: []grpc.CallOption{grpc.ForceCodecV2(rawCodec{"flat"})},
			caller:  func(p *party) { p.send(everyByte) },
			backend: func(p *party) error {
				p.recvAll()
				p.send("\xff" + everyByte)
				return nil
			},
		},
		callerSees:  []string{"message", `header content-type = ["application/grpc+flat"]`},
		backendSees: []string{`metadata content-type = ["application/grpc+flat"]`, "message"},
	},
	{
		exchange:    compressed("gzip asked and answered", "gzip", "gzip"),
		callerSees:  []string{"message", `encoding "gzip"`},
		backendSees: []string{`encoding "gzip"`, "message"},
	},
	{
		exchange:    compressed("gzip asked, plain answered", "gzip", "identity"),
		callerSees:  []string{"message", `encoding "identity"`},
		backendSees: []string{`encoding "gzip"`, "message"},
	},
	{
		exchange:    compressed("plain asked, gzip answered", "identity", "gzip"),
		callerSees:  []string{"message", `encoding "gzip"`},
		backendSees: []string{`encoding ""`, "message"},
	},
	{
		exchange:    compressed("plain asked and answered", "identity", "identity"),
		callerSees:  []string{"message", `encoding "identity"`},
		backendSees: []string{`encoding ""`, "message"},
	},
}
