// Package etcdtest gives tests a real etcd and ways to disturb its network. Everything ends with the test.
package etcdtest

import (
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/internal/embedetcd"
)

// Start starts an etcd of the test's own. Tune is as in [embedetcd.Start].
func Start(t testing.TB, tune ...func(*embed.Config)) *embedetcd.Server {
	t.Helper()
	s, err := embedetcd.Start(t.TempDir(), tune...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// StartCluster starts an etcd of three members.
func StartCluster(t testing.TB) *embedetcd.Cluster {
	t.Helper()
	c, err := embedetcd.StartCluster(t.TempDir(), 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

// Client returns an ordinary client, for the test's own requests to etcd.
func Client(t testing.TB, endpoints ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
