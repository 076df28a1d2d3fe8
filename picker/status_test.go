package picker_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/picker"
)

func TestAReturnedCallIsNotCounted(t *testing.T) {
	b := ready(picker.WeightedRoundRobin, weights(1))
	b.pick("").Return()
	if got := b.Status().Instances[0]; got.Calls != 0 || got.InFlight != 0 {
		t.Errorf("calls = %d, in flight = %d, want 0", got.Calls, got.InFlight)
	}
	b.Close()
}

func TestStatusTellsTheLastError(t *testing.T) {
	b := ready(picker.RoundRobin, weights(7))
	b.conns[addr(0)].endpoint.SetState(picker.Failed, errors.New("connection refused"))
	b.conns[addr(0)].endpoint.SetState(picker.Ready, nil)
	got := b.Status()
	want := picker.Status{Policy: "round_robin", Synced: true, Instances: []picker.EndpointStatus{{
		Addr: addr(0), Weight: 7, State: "ready", Since: got.Instances[0].Since,
		LastError: "connection refused", LastErrorAt: got.Instances[0].LastErrorAt,
	}}}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("status (-got +want):\n%s", diff)
	}
	if at := got.Instances[0].LastErrorAt; at.IsZero() || at.After(got.Instances[0].Since) {
		t.Errorf("the error is of %v, want a time before it was ready, %v", at, got.Instances[0].Since)
	}
	b.Close()
}

func TestStatusTellsWhatBecameOfCalls(t *testing.T) {
	b := ready(picker.RoundRobin, weights(1, 1, 1))
	good, bad, unused := b.pick(""), b.pick(""), b.pick("")
	good.End(picker.Result{Code: codes.OK, Began: time.Now().Add(-10 * time.Millisecond), Took: 10 * time.Millisecond})
	bad.End(picker.Result{Code: codes.Unavailable, Began: time.Now().Add(-time.Second), Took: time.Second})
	unused.Return()
	for _, in := range b.Status().Instances {
		switch in.Addr {
		case good.Addr():
			if in.Recent == nil || in.Recent.ErrorShare != 0 || in.Recent.P99Seconds > 0.02 {
				t.Errorf("of a call that went well: %+v", in.Recent)
			}
		case bad.Addr():
			if in.Recent == nil || in.Recent.ErrorShare != 1 || in.Recent.P99Seconds < 0.8 {
				t.Errorf("of a call that failed after a second: %+v", in.Recent)
			}
		case unused.Addr():
			if in.Recent != nil {
				t.Errorf("without a call: %+v", in.Recent)
			}
		}
	}
	b.Close()
}

func TestLastErrorsAreTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(picker.RoundRobin)
		defer b.Close()
		b.Update(instances(
			discovery.Instance{Addr: addr(0), Version: "1", Weight: 1},
			discovery.Instance{Addr: addr(1), Version: "1", Weight: 1},
			discovery.Instance{Addr: addr(2), Version: "2", Weight: 1},
			discovery.Instance{Addr: addr(3), Version: "2", Weight: 0},
		))
		tell := func(i int, state picker.State, cause string) {
			time.Sleep(time.Second) // simulated, as all of it
			b.conns[addr(i)].endpoint.SetState(state, errors.New(cause))
		}
		wantLast := func(version, want string) {
			t.Helper()
			if got := b.Current().LastErrors(version); got != want {
				t.Errorf("version %q: last errors = %q, want %q", version, got, want)
			}
		}
		wantLast("", "")
		tell(0, picker.Failed, "closed")
		tell(1, picker.Failed, "refused")
		wantLast("", addr(1)+": refused")
		tell(0, picker.Failed, "refused, too")
		tell(3, picker.Failed, "nobody asks")
		wantLast("", addr(0)+": refused, too")
		wantLast("2", "")
		tell(2, picker.Connecting, "lost")
		wantLast("2", addr(2)+", connecting again: lost")
		wantLast("", addr(0)+": refused, too; "+addr(2)+", connecting again: lost")
		b.conns[addr(1)].endpoint.SetState(picker.Ready, nil)
		wantLast("1", "")
	})
}
