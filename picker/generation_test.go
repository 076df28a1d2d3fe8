package picker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/lbproxy/lbproxy/picker"
)

// A large pool makes its next generation a moment after a change. Until then calls go to what the last one holds.
func TestEndpointsStayOpenAsLongAsTheyCanBePicked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const few, many = 1000, 3000
		w := make([]int, many)
		for i := range w {
			w[i] = 1
		}
		b := ready(picker.RoundRobin, weights(w...))
		defer b.Close()
		changed := b.Current().Changed()
		b.Update(weights(w[:few]...))
		if got := b.calls(t, many); len(got) != many {
			t.Errorf("%d endpoints were picked before the next generation, want %d", len(got), many)
		}
		<-changed
		if got := b.calls(t, many); len(got) != few {
			t.Errorf("%d endpoints were picked from the next generation, want %d", len(got), few)
		}
		time.Sleep(time.Second) // simulated
		for i := range w {
			closes := 0
			if i >= few {
				closes = 1
			}
			if got := b.conns[addr(i)].closes; got != closes {
				t.Fatalf("endpoint %d closed %d times, want %d", i, got, closes)
			}
		}
	})
}
