package registrar_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

func TestRegistrarWaitsForEtcd(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	server.Stop()
	r, logs := startRegistrar(t, server.Endpoint(), longTTL)
	etcdtest.Eventually(t, "the registrar says that it cannot register", func() bool { return logged(logs, "not registered") })
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	awaitRegistered(t, r)
	if got := countLogged(logs, "not registered"); got > 2 {
		t.Errorf("%d lines about one outage: %v", got, logs.All())
	}
}

func TestRegistrarOutlastsEtcd(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	e := store{etcdtest.Client(t, server.Endpoint()), server.Endpoint()}
	r, _ := startRegistrar(t, e.endpoint, shortTTL)
	awaitRegistered(t, r)
	stopped := time.Now()
	server.Stop()
	etcdtest.Eventually(t, "the lease should have run out", func() bool {
		return !r.Status().Registered && time.Since(stopped) > shortTTL
	})
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	etcdtest.Eventually(t, "it is registered again, as the registrar knows", func() bool {
		status := r.Status()
		kv := e.await(t, testKey, exists)
		return status.Registered && status.ModRevision == kv.ModRevision
	})
	e.awaitRenewal(t, e.await(t, testKey, exists).Lease, time.Now())
}

// harms are how the network to etcd fails.
var harms = map[string]func(*etcdtest.Forwarder){
	"cut":     (*etcdtest.Forwarder).Cut,
	"stalled": (*etcdtest.Forwarder).Stall,
}

func TestRegistrarLosesItsLeaseWhileCutOff(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	for name, harm := range harms {
		t.Run(name, func(t *testing.T) {
			network := etcdtest.Forward(t, e.endpoint)
			r, _ := startRegistrar(t, network.Endpoint(), shortTTL)
			awaitRegistered(t, r)
			before := e.await(t, testKey, exists)
			harm(network)
			e.await(t, testKey, absent)
			etcdtest.Eventually(t, "the registrar finds out", func() bool { return !r.Status().Registered })
			network.Resume()
			after := e.await(t, testKey, exists)
			if after.CreateRevision == before.CreateRevision || after.Lease == before.Lease {
				t.Errorf("registered again as %v, want a registration apart from %v", after, before)
			}
			etcdtest.Eventually(t, "the registrar knows", func() bool { return r.Status().Registered })
			if err := r.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestStopWithoutEtcdIsBounded(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	for name, harm := range harms {
		t.Run(name, func(t *testing.T) {
			network := etcdtest.Forward(t, e.endpoint)
			r, _ := startRegistrar(t, network.Endpoint(), shortTTL)
			awaitRegistered(t, r)
			harm(network)
			began := time.Now()
			err := r.Stop(context.Background())
			if took := time.Since(began); took > 10*time.Second { // on a busy machine
				t.Errorf("Stop took %v, want about the request timeout of 1s", took)
			}
			if err == nil || !strings.Contains(err.Error(), "the registration ends by itself within 2s") {
				t.Errorf("Stop: got %v, want an error that says what becomes of the registration", err)
			}

			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := r.Stop(ctx); err == nil {
				t.Error("Stop with a context that has ended: no error")
			}
			network.Resume()
			etcdtest.Eventually(t, "Stop succeeds when called again", func() bool { return r.Stop(t.Context()) == nil })
			e.await(t, testKey, absent)
		})
	}
}
