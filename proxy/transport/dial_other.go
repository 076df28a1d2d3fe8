//go:build !linux

package transport

import (
	"context"
	"syscall"
)

// limitUnacked does nothing where there is no TCP_USER_TIMEOUT: keep-alive alone finds dead peers.
func limitUnacked(context.Context, string, string, syscall.RawConn) error { return nil }
