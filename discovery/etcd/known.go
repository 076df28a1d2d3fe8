package etcd

import (
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// known is the keys that the handler has been told of, each with the revision of its last change.
type known map[string]int64

// put notes that an entry was written. It is false if that is old news, from a list or from before a reconnect.
func (k known) put(e Entry) bool {
	if k[e.Key] >= e.ModRevision {
		return false
	}
	k[e.Key] = e.ModRevision
	return true
}

// delete notes that a key was deleted at a revision. It is false if that is old news.
func (k known) delete(key string, revision int64) bool {
	if at, ok := k[key]; !ok || at >= revision {
		return false
	}
	delete(k, key)
	return true
}

// replace makes the result of a list all that is known, and calls put and remove for what is different.
func (k known) replace(list []*mvccpb.KeyValue, put func(Entry), remove func(key string)) {
	listed := make(map[string]struct{}, len(list))
	for _, kv := range list {
		e := entryOf(kv)
		listed[e.Key] = struct{}{}
		if k[e.Key] != e.ModRevision { // it may be lower, if etcd was restored from a backup
			k[e.Key] = e.ModRevision
			put(e)
		}
	}
	for key := range k {
		if _, ok := listed[key]; !ok {
			delete(k, key)
			remove(key)
		}
	}
}

// digest returns the digest of the known keys.
func (k known) digest() digest {
	d := digest{count: int64(len(k))}
	for _, revision := range k {
		d.newest = max(d.newest, revision)
	}
	return d
}

// A digest stands for a state of the keys below a prefix. Every change but a deletion makes the newest modification
// newer, and a deletion makes the count smaller: states of the same digest, one after the other, are the same.
type digest struct {
	count  int64
	newest int64 // the highest modification revision
}

// digest reads the digest of the keys below prefix at a revision, or the current one if that is 0, without values.
func (m *Mux) digest(ctx context.Context, prefix string, revision int64) (d digest, err error) {
	err = m.withSlot(ctx, func() error {
		r, err := m.read(ctx, m.patience(), prefix,
			clientv3.WithPrefix(),
			clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend),
			clientv3.WithLimit(1), // RangeResponse.count "is unaffected by limits" (etcd's rpc.proto)
			clientv3.WithKeysOnly(),
			clientv3.WithRev(revision))
		if err != nil {
			return err
		}
		d.count = r.Count
		if len(r.Kvs) > 0 {
			d.newest = r.Kvs[0].ModRevision
		}
		return nil
	})
	return d, err
}
