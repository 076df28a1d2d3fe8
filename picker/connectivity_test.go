package picker_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/metrics"
	"github.com/lbproxy/lbproxy/picker"
)

func TestAnEngineMayBeReadyBeforeDialReturns(t *testing.T) {
	dial := func(e *picker.Endpoint) picker.Conn {
		e.SetState(picker.Ready, nil)
		return nothing{}
	}
	pool := picker.NewPool("hello", picker.RoundRobin, dial, metrics.NewEndpoints(prometheus.NewRegistry()), zap.NewNop())
	defer pool.Close()
	pool.Update(weights(1))
	e, _ := pool.Pick(&anybody)
	if e == nil {
		t.Fatal("nothing to pick")
	}
	defer e.Return()
	if e.Conn() != (nothing{}) {
		t.Errorf("picked with the connection %v", e.Conn())
	}
}
