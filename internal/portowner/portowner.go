// Package portowner finds the process that has taken an address that this one wants to listen at.
package portowner

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Explain adds to an error of listening at address (host:port, or unix:PATH) who listens there already, if that is the
// reason and as far as it can be known. Other errors are returned unchanged.
func Explain(err error, address string) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	path, isUnix := strings.CutPrefix(address, "unix:")
	owner := ""
	if isUnix {
		owner = ofSocket(path)
	} else {
		owner = ofPort(address)
	}
	if owner == "" {
		owner = "another process"
	}
	return fmt.Errorf("%s is taken by %s: %w", address, owner, err)
}
