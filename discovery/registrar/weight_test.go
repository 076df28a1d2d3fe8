package registrar_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

func TestSetWeight(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	network := etcdtest.Forward(t, e.endpoint)
	r, logs := startRegistrar(t, network.Endpoint(), longTTL)
	awaitRegistered(t, r)
	before := e.await(t, testKey, exists)

	if err := r.SetWeight(t.Context(), 20); err != nil {
		t.Fatal(err)
	}
	after := e.await(t, testKey, exists)
	if want := strings.Replace(string(before.Value), "10}", "20}", 1); string(after.Value) != want {
		t.Errorf("the value is %s, want %s", after.Value, want)
	}
	if after.CreateRevision != before.CreateRevision || after.Lease != before.Lease {
		t.Errorf("a new weight made a new registration: %v, before %v", after, before)
	}
	if got := r.Status(); !got.Registered || got.Weight != 20 || got.ModRevision != after.ModRevision {
		t.Errorf("status is %+v, which is not that of %v", got, after)
	}
	if err := r.SetWeight(t.Context(), 20); err != nil {
		t.Errorf("the same weight again: %v", err)
	}
	if err := r.SetWeight(t.Context(), discovery.MaxWeight+1); err == nil {
		t.Error("a weight out of range: no error")
	}

	network.Cut()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := r.SetWeight(ctx, 0)
	if err == nil || !strings.Contains(err.Error(), "not confirmed by etcd yet") {
		t.Errorf("without etcd: got %v, want an error that says that the weight is not confirmed", err)
	}
	network.Resume()
	e.await(t, testKey, func(kv *mvccpb.KeyValue) bool {
		return kv != nil && strings.Contains(string(kv.Value), `"weight":0}`)
	})
	etcdtest.Eventually(t, "it is registered with the weight", func() bool { return r.SetWeight(t.Context(), 0) == nil })
	if logged(logs, "someone else wrote") {
		t.Errorf("a weight of its own is taken for someone else's: %v", logs.All())
	}
}

func TestWeightHandler(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	r, _ := startRegistrar(t, e.endpoint, longTTL)
	awaitRegistered(t, r)
	handler := r.WeightHandler()
	for _, test := range []struct {
		method, target string
		code           int
		want           string // in the answer
	}{
		{"GET", "/weight", 200, `"weight":10,"registered":true`},
		{"PUT", "/weight?weight=20", 200, `"weight":20,"registered":true`},
		{"PUT", "/?weight=0", 200, `"weight":0,"registered":true`},
		{"GET", "/", 200, `"key":"/hello/127.0.0.1:1001"`},
		{"PUT", "/", 400, "no weight is given; use ?weight=N with N from 0 (drained) to 65535"},
		{"PUT", "/?weight=", 400, `weight: want a whole number, such as 10, got ""`},
		{"PUT", "/?weight=ten", 400, `weight: want a whole number, such as 10, got "ten"`},
		{"PUT", "/?weight=10.0", 200, `"weight":10,"registered":true`},
		{"PUT", "/?weight=-1", 400, "weight -1 is out of range; use 0 (drained) to 65535"},
		{"PUT", "/?weight=65536", 400, "weight 65536 is out of range"},
		{"POST", "/?weight=1", 405, ""},
		{"DELETE", "/", 405, ""},
	} {
		t.Run(test.method+" "+test.target, func(t *testing.T) {
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, httptest.NewRequest(test.method, test.target, http.NoBody))
			if answer.Code != test.code || !strings.Contains(answer.Body.String(), test.want) {
				t.Errorf("got %d %s, want %d with %q", answer.Code, answer.Body, test.code, test.want)
			}
		})
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest("PUT", "/?weight=1", http.NoBody))
	if answer.Code != http.StatusServiceUnavailable {
		t.Errorf("after Stop: got %d %s, want 503", answer.Code, answer.Body)
	}
}
