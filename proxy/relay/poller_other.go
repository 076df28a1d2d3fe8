//go:build !linux

package relay

import (
	"errors"
	"net"
	"time"
)

// poller is for Linux only.
type poller struct{ alarm noAlarm }

type noAlarm struct{}

func (noAlarm) set(time.Duration) {}

func newPoller(*worker) (*poller, error) { return nil, errors.ErrUnsupported }

func (*poller) run()   {}
func (*poller) close() {}

func (*poller) attach(net.Conn, func(), func(driver) *conn) (*conn, error) { return nil, errNoSocket }
