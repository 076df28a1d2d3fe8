package discovery

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func (c *EtcdClient) Get(ctx context.Context) (*clientv3.Client, error) { return c.get(ctx) }
