package etcd_test

import (
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery/etcd"
)

// A second one would not be closed.
func TestAllUsersShareOneClient(t *testing.T) {
	for range 200 {
		c, err := etcd.NewClient(etcd.Config{Endpoints: []string{"127.0.0.1:1"}}, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		var users sync.WaitGroup
		var got [8]*clientv3.Client
		for i := range got {
			users.Go(func() {
				var err error
				if got[i], err = c.Connect(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		users.Wait()
		for i := range got {
			if got[i] != got[0] {
				t.Errorf("users 0 and %d have different clients", i)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
}
