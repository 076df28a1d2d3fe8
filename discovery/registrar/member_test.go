package registrar_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registrar"
	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

// Each member of etcd is frozen in turn, until all leases have been renewed since. The registrars that used it go on at
// another one in time: no registration is lost, and weights can be set all the while.
func TestRegistrarsOutlastAFrozenMember(t *testing.T) {
	t.Parallel()
	const ttl = 12 * time.Second
	members := etcdtest.StartProcesses(t)
	var registrars []*registrar.Registrar
	var logs []*observer.ObservedLogs
	for i := range 6 {
		core, logged := observer.New(zap.InfoLevel)
		client := etcdClient(t, etcd.Config{Endpoints: members.Endpoints()})
		r, err := registrar.New(client, "hello",
			discovery.Instance{Addr: fmt.Sprintf("127.0.0.1:%d", 1001+i), Weight: 10},
			registrar.Options{TTL: ttl, Log: zap.New(core)})
		if err != nil {
			t.Fatal(err)
		}
		r.Start()
		t.Cleanup(func() { r.Stop(context.Background()) })
		awaitRegistered(t, r)
		registrars, logs = append(registrars, r), append(logs, logged)
	}
	leader := members.Leader(0)
	for weight, frozen := range []int{(leader + 1) % 3, (leader + 2) % 3, leader} {
		admin := store{Client: members.Admin((frozen + 1) % 3)}
		before := admin.entries(t)
		members.Freeze(frozen)
		for i, r := range registrars {
			if err := r.SetWeight(etcdtest.Within(t), weight); err != nil {
				t.Errorf("registrar %d with member %d frozen: %v", i, frozen, err)
			}
		}
		since := time.Now()
		for _, kv := range before {
			admin.awaitRenewal(t, kv.Lease, since)
		}
		after := admin.entries(t)
		for key, kv := range before {
			if now := after[key]; now == nil || now.CreateRevision != kv.CreateRevision || now.Lease != kv.Lease {
				t.Errorf("with member %d frozen, %v became %v", frozen, kv, now)
			}
		}
		if frozen != leader { // an etcd that is led by one that has slept may end leases, whoever renews them
			members.Thaw(frozen)
		}
	}
	for i, l := range logs {
		if logged(l, "not registered") {
			t.Errorf("registrar %d lost its registration: %v", i, l.All())
		}
	}
}

// A member that is frozen when a registrar starts, or stops, is left for another.
func TestRegistrarStartsAndStopsBesideAFrozenMember(t *testing.T) {
	t.Parallel()
	e := newStore(t)
	frozen := etcdtest.Forward(t, e.endpoint)
	for _, freeze := range []struct{ beforeStart, beforeStop func() }{
		{frozen.Stall, func() {}},
		{func() {}, frozen.Stall},
	} {
		for range 4 { // whichever member is asked first
			freeze.beforeStart()
			client := etcdClient(t, etcd.Config{
				Endpoints: []string{frozen.Endpoint(), e.endpoint}, DialTimeout: 3 * time.Second,
			})
			r, err := registrar.New(client, "hello", testInstance, registrar.Options{})
			if err != nil {
				t.Fatal(err)
			}
			r.Start()
			t.Cleanup(func() { r.Stop(context.Background()) })
			awaitRegistered(t, r)
			freeze.beforeStop()
			if err := r.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			frozen.Resume()
		}
	}
}

func (s store) entries(t *testing.T) map[string]*mvccpb.KeyValue {
	t.Helper()
	got, err := s.Get(etcdtest.Within(t), "/hello/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*mvccpb.KeyValue{}
	for _, kv := range got.Kvs {
		all[string(kv.Key)] = kv
	}
	return all
}
