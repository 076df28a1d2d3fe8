package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	interoppb "google.golang.org/grpc/interop/grpc_testing"
)

// The cases with which gRPC's implementations are tested against each other, through the proxy.
func TestInterop(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		w.startInstance("interop", "", 1,
			func(b *backend) { b.options = nil }, // unknown services must be unknown
			serving(func(s *grpc.Server) { interoppb.RegisterTestServiceServer(s, interop.NewTestServer()) }))
		cc := w.startProxy(listed("interop")).dial("interop")
		client := interoppb.NewTestServiceClient(cc)
		for _, c := range []struct {
			name string
			run  func(context.Context, interoppb.TestServiceClient, ...grpc.CallOption)
		}{
			{"empty_unary", interop.DoEmptyUnaryCall},
			{"large_unary", interop.DoLargeUnaryCall},
			{"client_streaming", interop.DoClientStreaming},
			{"server_streaming", interop.DoServerStreaming},
			{"ping_pong", interop.DoPingPong},
			{"empty_stream", interop.DoEmptyStream},
			{"timeout_on_sleeping_server", interop.DoTimeoutOnSleepingServer},
			{"cancel_after_begin", interop.DoCancelAfterBegin},
			{"cancel_after_first_response", interop.DoCancelAfterFirstResponse},
			{"status_code_and_message", interop.DoStatusCodeAndMessage},
			{"special_status_message", interop.DoSpecialStatusMessage},
			{"custom_metadata", interop.DoCustomMetadata},
			{"unimplemented_method", func(ctx context.Context, _ interoppb.TestServiceClient, _ ...grpc.CallOption) {
				interop.DoUnimplementedMethod(ctx, cc)
			}},
			{"unimplemented_service", func(ctx context.Context, _ interoppb.TestServiceClient, _ ...grpc.CallOption) {
				interop.DoUnimplementedService(ctx, interoppb.NewUnimplementedServiceClient(cc))
			}},
		} {
			t.Run(c.name, func(t *testing.T) {
				defer failOnFatal(t)
				c.run(within(t), client)
			})
		}
	})
}

// The cases report a failure by ending the process; that must fail the one that failed.
func TestInteropFailuresAreSeen(t *testing.T) {
	defer func() {
		if _, isFatal := recover().(fatal); !isFatal {
			t.Error("a case that fails is not seen to fail")
		}
	}()
	nobody := dial(t, "passthrough:///127.0.0.1:1")
	interop.DoEmptyUnaryCall(within(t), interoppb.NewTestServiceClient(nobody))
}

// fatal is what gRPC's logger was told before the process was to end.
type fatal string

// makeFatalsPanic makes gRPC panic where it would end the process. It must come before gRPC is used.
func makeFatalsPanic() {
	grpclog.SetLoggerV2(panicker{grpclog.NewLoggerV2(io.Discard, io.Discard, os.Stderr)})
}

// failOnFatal fails the test if the function that defers it panics with a fatal.
func failOnFatal(t *testing.T) {
	t.Helper()
	switch r := recover().(type) {
	case nil:
	case fatal:
		t.Error(string(r))
	default:
		panic(r)
	}
}

// panicker is a logger. It does not embed DepthLoggerV2, so all fatals come through the three methods below.
type panicker struct{ grpclog.LoggerV2 }

func (panicker) Fatal(args ...any)                 { panic(fatal(fmt.Sprint(args...))) }
func (panicker) Fatalln(args ...any)               { panic(fatal(fmt.Sprintln(args...))) }
func (panicker) Fatalf(format string, args ...any) { panic(fatal(fmt.Sprintf(format, args...))) }
