package etcd

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func (c *Client) Connect(ctx context.Context) (*clientv3.Client, error) { return c.connect(ctx) }
