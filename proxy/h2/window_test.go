package h2_test

import (
	"testing"

	"github.com/lbproxy/lbproxy/proxy/h2"
)

func TestASendWindow(t *testing.T) {
	w := h2.SendWindow(h2.InitialWindow)
	if got := w.Take(100_000); got != h2.InitialWindow || w != 0 {
		t.Errorf("took %d, left %d", got, w)
	}
	if !w.Grow(-1000) || w.Take(1) != 0 || w != -1000 {
		t.Errorf("a window made smaller is %d, want -1000 and nothing to take", w)
	}
	if !w.Grow(1001) || w.Take(5) != 1 {
		t.Errorf("a window that has grown by 1001 from -1000 left %d", w)
	}
	if !w.Grow(h2.MaxWindow) || w.Grow(1) || w != h2.MaxWindow {
		t.Errorf("a window can grow to %d and no further, but is %d", h2.MaxWindow, w)
	}
}

func TestAReceiveWindow(t *testing.T) {
	w := h2.NewReceiveWindow(1000, 1000)
	if !w.Receive(1000) || w.Receive(1) || w.Held() != 1000 {
		t.Errorf("of 1000 bytes, %d are held", w.Held())
	}
	if w.Release(499) || w.Receive(1) || w.Used() {
		t.Error("an update is due after 499 of 1000 bytes")
	}
	if !w.Release(1) || w.Held() != 500 || !w.Used() {
		t.Errorf("no update is due after 500 of 1000 bytes, of which %d are held", w.Held())
	}
	if got := w.Update(1000); got != 500 || !w.Receive(500) || w.Receive(1) {
		t.Errorf("the update is by %d, want 500", got)
	}
	if w = h2.NewReceiveWindow(1000, 100); !w.Receive(100) || w.Release(99) || !w.Release(1) {
		t.Error("an update is not due after a lump of 100 bytes")
	}
}

func TestAReceiveWindowChangesItsSize(t *testing.T) {
	w := h2.NewReceiveWindow(1000, 1000)
	update := func(size, by, got int32) {
		t.Helper()
		if n := w.Update(size); n != by || w.Size() != got || w.Grown() != int(got)-1000 {
			t.Errorf("an update to %d is by %d and makes it %d, want by %d and %d", size, n, w.Size(), by, got)
		}
	}
	update(1200, 200, 1200) // before anything has come
	w.Receive(600)
	w.Release(600)
	update(2400, 1800, 2400)
	w.Receive(1800)
	w.Release(1200)
	update(1200, 0, 1200)
	update(100, 0, 1200) // what is allowed is not taken back
	if w.Held() != 600 || !w.Receive(600) || w.Receive(1) {
		t.Error("with 600 bytes held of 1200, the peer may not send 600")
	}
}

func TestAReceiveWindowTellsWhetherItsReaderKeepsUp(t *testing.T) {
	w := h2.NewReceiveWindow(1000, 1000)
	turn := func(wantTurned, wantKeptUp bool) {
		t.Helper()
		if turned, keptUp := w.Turn(); turned != wantTurned || keptUp != wantKeptUp {
			t.Errorf("it turned: %v, and the reader kept up: %v; want %v, %v", turned, keptUp, wantTurned, wantKeptUp)
		}
		w.Update(1000)
	}
	w.Receive(400)
	w.Release(400)
	turn(false, false) // too early to tell
	w.Receive(600)
	w.Release(100) // 500 are held, though once nothing was
	turn(true, true)
	w.Receive(300)
	w.Release(500)
	turn(true, false)
	w.Release(300)
	turn(false, false)
	w.Receive(200)
	w.Release(200)
	turn(true, true)
}
