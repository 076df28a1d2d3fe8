package registrar_test

import (
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

func TestRegistrarRestores(t *testing.T) {
	for _, test := range []struct {
		name string
		harm func(t *testing.T, e store, kv *mvccpb.KeyValue)
		log  string
		// whether what is restored is a new registration, under a new lease
		newRegistration, newLease bool
	}{
		{
			"lease revoked", func(t *testing.T, e store, kv *mvccpb.KeyValue) {
				if _, err := e.Revoke(t.Context(), clientv3.LeaseID(kv.Lease)); err != nil {
					t.Fatal(err)
				}
			}, "not registered", true, true,
		},
		{
			"key deleted", func(t *testing.T, e store, _ *mvccpb.KeyValue) {
				if _, err := e.Delete(t.Context(), testKey); err != nil {
					t.Fatal(err)
				}
			}, "gone from etcd", true, false,
		},
		{
			"key overwritten", func(t *testing.T, e store, _ *mvccpb.KeyValue) {
				if _, err := e.Put(t.Context(), testKey, "mine"); err != nil {
					t.Fatal(err)
				}
			}, "someone else wrote", false, false,
		},
		{
			"value edited", func(t *testing.T, e store, _ *mvccpb.KeyValue) {
				if _, err := e.Put(t.Context(), testKey, "{}", clientv3.WithIgnoreLease()); err != nil {
					t.Fatal(err)
				}
			}, "someone else wrote", false, false,
		},
		{
			"weight set by hand", func(t *testing.T, e store, kv *mvccpb.KeyValue) {
				drained := strings.Replace(string(kv.Value), `"weight":10`, `"weight":0`, 1)
				if _, err := e.Put(t.Context(), testKey, drained, clientv3.WithIgnoreLease()); err != nil {
					t.Fatal(err)
				}
			}, "someone else wrote", false, false,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e := newStore(t)
			r, logs := startRegistrar(t, e.endpoint, longTTL)
			awaitRegistered(t, r)
			before := e.await(t, testKey, exists)
			test.harm(t, e, before)
			after := e.await(t, testKey, func(kv *mvccpb.KeyValue) bool {
				return kv != nil && kv.ModRevision > before.ModRevision && string(kv.Value) == string(before.Value)
			})
			if got := after.CreateRevision != before.CreateRevision; got != test.newRegistration {
				t.Errorf("new create revision: %v, want %v", got, test.newRegistration)
			}
			if got := after.Lease != before.Lease; got != test.newLease {
				t.Errorf("new lease: %v, want %v", got, test.newLease)
			}
			etcdtest.Eventually(t, "the status shows what was restored", func() bool {
				s := r.Status()
				return s.Registered && s.ModRevision == after.ModRevision
			})
			if !logged(logs, test.log) {
				t.Errorf("no line says %q: %v", test.log, logs.All())
			}
		})
	}
}

func TestTwoRegistrarsOfOneAddress(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	first, firstLog := startRegistrar(t, e.endpoint, longTTL)
	awaitRegistered(t, first)
	second, secondLog := startRegistrar(t, e.endpoint, longTTL)
	awaitRegistered(t, second)
	const conflict = "someone else wrote"
	etcdtest.Eventually(t, "both find out", func() bool { return logged(firstLog, conflict) && logged(secondLog, conflict) })
	etcdtest.Eventually(t, "they take longer each time", func() bool {
		lines := firstLog.FilterMessageSnippet(conflict).All()
		last := lines[len(lines)-1].ContextMap()["in"].(time.Duration)
		return last > time.Second
	})
	// Three doublings at most were needed for that.
	if got := countLogged(firstLog, conflict); got > 3 {
		t.Errorf("%d lines about the conflict, want at most 3", got)
	}

	if err := second.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	etcdtest.Eventually(t, "the one that is left has the key", func() bool { return first.Status().Registered })
	kv := e.await(t, testKey, exists)
	if got, want := kv.ModRevision, first.Status().ModRevision; got != want {
		t.Errorf("the key is of revision %d, the registrar's of %d", got, want)
	}
}

func TestStopLeavesTheKeyToWhoTookIt(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	r, logs := startRegistrar(t, e.endpoint, longTTL)
	awaitRegistered(t, r)
	if _, err := e.Put(t.Context(), testKey, "mine"); err != nil {
		t.Fatal(err)
	}
	etcdtest.Eventually(t, "the registrar finds out", func() bool { return logged(logs, "someone else wrote") })
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kv := e.await(t, testKey, exists); string(kv.Value) != "mine" {
		t.Errorf("after Stop the key holds %s", kv.Value)
	}
}
