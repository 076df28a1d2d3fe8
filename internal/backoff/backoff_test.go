package backoff_test

import (
	"testing"
	"time"

	"github.com/lbproxy/lbproxy/internal/backoff"
)

func TestWaitsDoubleUpToTheLongest(t *testing.T) {
	b := backoff.New(100*time.Millisecond, time.Second)
	for range 2 {
		for i, about := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
			about *= time.Millisecond
			if got := b.Next(); got < about*79/100 || got > about*121/100 {
				t.Errorf("wait %d is %v, want about %v", i, got, about)
			}
		}
		b.Reset()
	}
}
