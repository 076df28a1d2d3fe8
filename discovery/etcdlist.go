package discovery

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// list reads all entries below prefix as they were at revision, or as they are now if revision is 0, and
// returns the revision that it read. It fails if etcd compacts that revision in the meantime.
func (e *Etcd) list(ctx context.Context, prefix string, revision int64) ([]*mvccpb.KeyValue, int64, error) {
	client, err := e.client.get(ctx)
	if err != nil {
		return nil, 0, err
	}
	var all []*mvccpb.KeyValue
	for from := prefix; ; {
		page, err := e.listPage(ctx, client, prefix, from, revision)
		if err != nil {
			return nil, 0, fmt.Errorf("list %s in etcd at %s: %w", prefix, e.client.Endpoints(), err)
		}
		if revision == 0 {
			// Every page is of the first one's revision: together they are one state that has been.
			revision = page.Header.Revision
		}
		all = append(all, page.Kvs...)
		if !page.More || len(page.Kvs) == 0 {
			return all, revision, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

// listPage's read is linearizable, as etcd's are by default: a member that lags behind does not answer with
// its past.
func (e *Etcd) listPage(
	ctx context.Context, client *clientv3.Client, prefix, from string, revision int64,
) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, e.client.requestTimeout())
	defer cancel()
	return client.Get(ctx, from,
		clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)),
		clientv3.WithLimit(e.limits.page),
		clientv3.WithRev(revision))
}
