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

// A Handler is told what stands below a prefix. All calls come from the goroutine that called [Mux.Follow].
//
// It is told differences only, whether they come from a watch or from a list.
type Handler interface {
	// Put says that an entry was written, Delete that a key is gone. It begins with a Put for every entry there is.
	Put(Entry)
	Delete(key string)
	// Commit says that what has been told so far is the state at a revision. The first comes once everything has been
	// put, even if that is nothing. After one that took long the next is put off, so that a storm of changes leaves
	// time for other work. Commit returns when it is to be called again even if nothing changes; zero for never. That
	// time is not observed while there is no watch.
	Commit(revision int64) (again time.Time)
	// Confirmed says that at a time etcd held exactly what has been told, up to a revision.
	Confirmed(revision int64, at time.Time)
	// Lost says that etcd cannot confirm what has been told, until Confirmed. It still stands.
	Lost(why error)
}
