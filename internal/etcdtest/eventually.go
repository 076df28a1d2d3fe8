package etcdtest

import (
	"context"
	"testing"
	"time"
)

// patience bounds what a test waits for. Nothing takes that long unless it is broken.
const patience = 30 * time.Second

// Eventually returns when something holds, and fails the test if that takes half a minute.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// Within returns a context for what must happen before long.
func Within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
