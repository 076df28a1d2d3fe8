package etcdtest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

func TestForwarderSpoilsTheNetwork(t *testing.T) {
	server := etcdtest.Start(t)
	f := etcdtest.Forward(t, server.Endpoint())
	c := etcdtest.Client(t, f.Endpoint())
	get := func(timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, err := c.Get(ctx, "/k")
		return err
	}
	if err := get(10 * time.Second); err != nil {
		t.Fatalf("through the forwarder: %v", err)
	}
	for _, spoil := range []struct {
		name string
		do   func()
	}{{"stalled", f.Stall}, {"cut", f.Cut}} {
		spoil.do()
		if err := get(200 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v, want the deadline to run out", spoil.name, err)
		}
		f.Resume()
		if err := get(10 * time.Second); err != nil {
			t.Errorf("resumed after %s: %v", spoil.name, err)
		}
	}
}
