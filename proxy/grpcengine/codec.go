package grpcengine

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/emptypb"
)

// rawCodec passes messages as they are. The library moves them in an emptypb.Empty, whose unknown fields hold
// them: bytes that are never parsed, and need not be protobuf.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*emptypb.Empty)
	if !ok {
		return nil, fmt.Errorf("cannot relay a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(m.ProtoReflect().GetUnknown())}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*emptypb.Empty)
	if !ok {
		return fmt.Errorf("cannot relay into a %T", v)
	}
	m.ProtoReflect().SetUnknown(data.Materialize())
	return nil
}

// Name is empty so that content-type stays application/grpc where the call names no subtype.
func (rawCodec) Name() string { return "" }
