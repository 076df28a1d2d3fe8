package embedetcd_test

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lbproxy/lbproxy/internal/etcdtest"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

func TestRestartKeepsAddressAndData(t *testing.T) {
	s := etcdtest.Start(t)
	c, endpoint := etcdtest.Client(t, s.Endpoint()), s.Endpoint()
	put, err := c.Put(t.Context(), "/k", "v")
	if err != nil {
		t.Fatal(err)
	}
	watch := c.Watch(t.Context(), "/k", clientv3.WithRev(put.Header.Revision+1))

	stopped := time.Now()
	s.Stop()
	if took := time.Since(stopped); took > 4*time.Second {
		t.Errorf("Stop took %v with a watch open, want it not to wait for the watch", took)
	}
	s.Stop() // does nothing
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if s.Endpoint() != endpoint {
		t.Errorf("endpoint after Restart is %s, want %s", s.Endpoint(), endpoint)
	}
	got, err := c.Get(t.Context(), "/k")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "v" {
		t.Errorf("after Restart /k holds %v, want v", got.Kvs)
	}
	if _, err := c.Put(t.Context(), "/k", "w"); err != nil {
		t.Fatal(err)
	}
	if e := <-watch; len(e.Events) != 1 || string(e.Events[0].Kv.Value) != "w" {
		t.Errorf("the watch saw %v, want the put of w", e.Events)
	}
	if err := s.Restart(); err == nil {
		t.Error("Restart of a running server did not fail")
	}
}

func TestClusterLosesItsLeader(t *testing.T) {
	cluster := etcdtest.StartCluster(t)
	c := etcdtest.Client(t, cluster.Endpoints()...)
	put := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Put(ctx, "/k", "v")
		return err
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	old := cluster.Leader()
	if old < 0 {
		t.Fatal("a cluster that takes writes has no leader")
	}
	cluster.Members[old].Stop()
	// Writes fail while there is no leader, and the client does not repeat those that may have gone through.
	for deadline := time.Now().Add(30 * time.Second); ; {
		err := put()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no write went through after the leader was gone: %v", err)
		}
	}
	if now := cluster.Leader(); now < 0 || now == old {
		t.Errorf("leader is %d after leader %d was stopped", now, old)
	}
	if err := cluster.Members[old].Restart(); err != nil {
		t.Fatal(err)
	}
}
