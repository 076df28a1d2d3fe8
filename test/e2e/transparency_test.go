package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Whatever caller and backend do, each sees what it would see without a proxy between them.
func TestProxyCannotBeSeen(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		s := newStage(t, w)
		for _, e := range exchanges {
			t.Run(e.name, func(t *testing.T) {
				caller, backend := s.compare(t, e.exchange)
				mustSee(t, "the caller", caller, e.callerSees...)
				mustSee(t, "the backend", backend, e.backendSees...)
			})
		}
	})
}

// Messages of any size cross, in both directions.
func TestLargeMessages(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		const size = 64 << 20
		question, answer := bytes.Repeat([]byte("question"), size/8), bytes.Repeat([]byte("answer.."), size/8)
		s := newStage(t, w)
		caller, backend := s.perform(t, exchange{
			caller: func(p *party) { p.send(string(question)) },
			backend: func(p *party) error {
				p.recvAll()
				p.send(string(answer))
				return nil
			},
		}, s.proxied)
		mustSee(t, "the caller", caller, "message "+shown(answer), "no more messages: EOF")
		mustSee(t, "the backend", backend, "message "+shown(question), "no more messages: EOF")
	})
}

// A backend's status is the backend's, whichever it is: the proxy passes it, and counts it as the backend's.
func TestStatusOfTheBackend(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		s := newStage(t, w)
		want := map[string]float64{}
		for code := codes.OK; code <= codes.Unauthenticated; code++ {
			caller, _ := s.compare(t, exchange{backend: func(*party) error {
				return status.Error(code, "the backend's own")
			}})
			if code != codes.OK {
				mustSee(t, "the caller", caller, fmt.Sprintf("no more messages: rpc error: code = %s desc = the backend's own", code))
			}
			want[fmt.Sprintf(`lbproxy_calls_total{code=%q,origin="backend",service="hello"}`, code)] = 1
			want[fmt.Sprintf(`lbproxy_endpoint_calls_total{code=%q,endpoint=%q,service="hello"}`, code, s.backend.addr)] = 1
		}
		await(t, "calls in the metrics", func() bool { return len(counted(s.proxy)) == len(want) })
		if diff := cmp.Diff(counted(s.proxy), want); diff != "" {
			t.Errorf("calls and errors in the metrics (-got +want):\n%s", diff)
		}
	})
}

// counted is the series that count calls and errors.
func counted(p *lbproxy) map[string]float64 {
	series := p.metrics()
	for name := range series {
		family, _, _ := strings.Cut(name, "{")
		switch family {
		case "lbproxy_calls_total", "lbproxy_endpoint_calls_total", "lbproxy_errors_total":
		default:
			delete(series, name)
		}
	}
	return series
}
