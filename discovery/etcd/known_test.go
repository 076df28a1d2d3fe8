package etcd

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

func kv(key string, modified int64) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: []byte(key), CreateRevision: 1, ModRevision: modified}
}

// What is told is what is different from what was told before, by whatever way it comes.
func TestKnownTellsNewsOnly(t *testing.T) {
	k := known{}
	var told []string
	put := func(e Entry) { told = append(told, fmt.Sprintf("%s@%d", e.Key, e.ModRevision)) }
	gone := func(key string) { told = append(told, key+" gone") }
	list := func(kvs ...*mvccpb.KeyValue) func() { return func() { k.replace(kvs, put, gone) } }
	written := func(key string, revision int64) func() {
		return func() {
			if e := entryOf(kv(key, revision)); k.put(e) {
				put(e)
			}
		}
	}
	deleted := func(key string, revision int64) func() {
		return func() {
			if k.delete(key, revision) {
				gone(key)
			}
		}
	}
	for _, step := range []struct {
		name string
		do   func()
		want string // that is told, sorted
		has  string // afterwards
	}{
		{"empty list", list(), "", ""},
		{"list", list(kv("a", 1), kv("b", 2)), "a@1 b@2", "a@1 b@2"},
		{"an event that the list knew", written("b", 2), "", "a@1 b@2"},
		{"a put", written("b", 3), "b@3", "a@1 b@3"},
		{"an event from before that", written("b", 2), "", "a@1 b@3"},
		{"a delete that the list knew", deleted("b", 2), "", "a@1 b@3"},
		{"a delete of nothing", deleted("c", 4), "", "a@1 b@3"},
		{"a put of another", written("c", 5), "c@5", "a@1 b@3 c@5"},
		{"a delete", deleted("b", 6), "b gone", "a@1 c@5"},
		{"a list of the same", list(kv("a", 1), kv("c", 5)), "", "a@1 c@5"},
		{"a list with a change, one more and one less", list(kv("a", 7), kv("d", 8)), "a@7 c gone d@8", "a@7 d@8"},
		{"a list of an etcd restored from a backup", list(kv("a", 4)), "a@4 d gone", "a@4"},
		{"an empty list", list(), "a gone", ""},
	} {
		told = nil
		step.do()
		slices.Sort(told)
		if got := strings.Join(told, " "); got != step.want {
			t.Errorf("%s: told is %q, want %q", step.name, got, step.want)
		}
		var has []string
		for _, key := range slices.Sorted(maps.Keys(k)) {
			has = append(has, fmt.Sprintf("%s@%d", key, k[key]))
		}
		if got := strings.Join(has, " "); got != step.has {
			t.Errorf("%s: known is %q, want %q", step.name, got, step.has)
		}
	}
}

// What an audit compares is another after every change.
func TestDigest(t *testing.T) {
	of := func(list []*mvccpb.KeyValue) digest {
		k := known{}
		k.replace(list, func(Entry) {}, func(string) {})
		return k.digest()
	}
	same := []*mvccpb.KeyValue{kv("a", 1), kv("b", 2)}
	now := of(same)
	if want := (digest{count: 2, newest: 2}); now != want {
		t.Errorf("digest is %+v, want %+v", now, want)
	}
	for _, tc := range []struct {
		name string
		list []*mvccpb.KeyValue
	}{
		{"a deletion of the newest", same[:1]},
		{"a deletion of another", same[1:]},
		{"a put", append(same[:2:2], kv("c", 3))},
		{"a change", []*mvccpb.KeyValue{kv("a", 3), same[1]}},
		{"a deletion and a put", []*mvccpb.KeyValue{same[0], kv("c", 4)}},
		{"a deletion and the same put again", []*mvccpb.KeyValue{kv("a", 4), same[1]}},
	} {
		if got := of(tc.list); got == now {
			t.Errorf("%s leaves the digest as it was, %+v", tc.name, got)
		}
	}
}
