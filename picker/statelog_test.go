package picker_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
)

// What an endpoint does over and over is told a few times, and what it does next at once or soon.
func TestAFailingEndpointDoesNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logged := observer.New(zap.InfoLevel)
		b := &bench{conns: map[string]*conn{}}
		b.Pool = picker.NewPool("hello", picker.RoundRobin, func(e *picker.Endpoint) picker.Conn {
			c := &conn{endpoint: e, closed: make(chan struct{})}
			b.conns[e.Addr()] = c
			return c
		}, metrics.NewEndpoints(prometheus.NewRegistry()), zap.New(core))
		defer b.Close()
		b.Update(weights(1))
		e := b.conns[addr(0)].endpoint
		lines := func() (lines []string) {
			for _, l := range logged.TakeAll() {
				line := l.Message
				if cause, ok := l.ContextMap()["error"].(string); ok {
					line += ": " + cause
				}
				lines = append(lines, line)
			}
			return lines
		}
		want := func(want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, lines()); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
		}
		const (
			ready  = "endpoint is ready"
			failed = "endpoint cannot be reached: "
			lost   = "endpoint has lost its connection and connects again: "
		)
		e.SetState(picker.Ready, nil)
		time.Sleep(time.Hour)
		e.SetState(picker.Connecting, errors.New("EOF"))
		for _, cause := range []string{"closed", "closed", "refused", "refused", "refused"} {
			e.SetState(picker.Failed, errors.New(cause))
			time.Sleep(100 * time.Millisecond)
		}
		e.SetState(picker.Ready, nil)
		want(ready, lost+"EOF", failed+"closed", failed+"refused", ready)

		time.Sleep(time.Hour)
		flap := func(until time.Duration) {
			for end := time.Now().Add(until); time.Now().Before(end); time.Sleep(time.Second) {
				e.SetState(picker.Failed, errors.New("closed"))
				e.SetState(picker.Ready, nil)
			}
		}
		flap(time.Minute)
		if n := len(lines()); n < 2 || n > 20 {
			t.Errorf("%d lines for a minute, want a few", n)
		}
		flap(time.Hour)
		if n := len(lines()); n < 60 || n > 130 {
			t.Errorf("%d lines for an hour, want two a minute", n)
		}
		for range 100 {
			e.SetState(picker.Failed, errors.New("refused"))
			time.Sleep(5 * time.Second)
		}
		want(failed + "refused")
		e.SetState(picker.Ready, nil)
		want(ready)
	})
}
