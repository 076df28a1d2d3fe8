package etcd

import (
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// An Entry is a key that stands in etcd, and its value.
type Entry struct {
	Key            string
	Value          []byte
	Lease          int64 // 0 for none
	CreateRevision int64
	ModRevision    int64
}

func entryOf(kv *mvccpb.KeyValue) Entry {
	return Entry{string(kv.Key), kv.Value, kv.Lease, kv.CreateRevision, kv.ModRevision}
}

// A Handler is told what stands below a prefix. [Mux.Follow] calls its methods from the goroutine that called it.
//
// It is told differences only, whether a watch brings them or a list: it need not know what it has been told.
type Handler interface {
	// Put says that an entry was written, Delete that a key is gone. At first, all entries that stand there are put.
	Put(Entry)
	Delete(key string)
	// Commit says that what has been told so far is one state, that of a revision. The first comes once everything was
	// put, even if there is nothing. Where it takes long, the next waits for a while, so that a storm of changes leaves time
	// for other work. It returns when to come again even if nothing changes, as long as there is a watch; zero for never.
	Commit(revision int64) (again time.Time)
	// Confirmed says that at a time etcd held just what has been told, at a revision or since.
	Confirmed(revision int64, at time.Time)
	// Lost says that etcd cannot confirm what has been told, until Confirmed. What has been told stands.
	Lost(why error)
}
