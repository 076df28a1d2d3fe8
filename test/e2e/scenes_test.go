package e2e

import (
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// echoed is an exchange of one message, unary, that comes back as it went.
func echoed(name, message string, options ...grpc.CallOption) exchange {
	return exchange{
		name: name, desc: &grpc.StreamDesc{}, options: options,
		caller: func(p *party) { p.send(message) },
		backend: func(p *party) error {
			p.recvAll()
			p.send(message)
			return nil
		},
	}
}

// statuses is an exchange for each code that gRPC knows, with and without headers before it.
func statuses() (all []scene) {
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		for _, header := range []bool{false, true} {
			all = append(all, scene{
				exchange: exchange{
					name: fmt.Sprintf("status %s, headers before it: %t", code, header),
					backend: func(p *party) error {
						if header {
							p.sendHeader("early", "yes")
						}
						p.setTrailer("why", "because")
						s, err := status.New(code, "the backend's own").WithDetails(durationpb.New(7))
						if err != nil {
							return err
						}
						return s.Err()
					},
				},
				callerSees: []string{
					fmt.Sprintf("no more messages: rpc error: code = %s desc = the backend's own", code),
					"trailer grpc-status-details-bin", "trailer why",
				},
			})
		}
	}
	return all
}

// compressed is an exchange of two messages in the encodings that each side prefers.
func compressed(name, asked, answered string) exchange {
	e := exchange{
		name:   name,
		caller: func(p *party) { p.send(strings.Repeat("question ", 100)) },
		backend: func(p *party) error {
			p.recvAll()
			if err := grpc.SetSendCompressor(p.stream.Context(), answered); err != nil {
				return err
			}
			p.send(strings.Repeat("answer ", 100))
			return nil
		},
	}
	if asked == gzip.Name {
		e.options = []grpc.CallOption{grpc.UseCompressor(gzip.Name)}
	}
	return e
}

var fiveMebibytes = strings.Repeat("01234", 1<<20)

var everyByte = func() string {
	var b []byte
	for i := range 256 {
		b = append(b, byte(i))
	}
	return string(b)
}()
