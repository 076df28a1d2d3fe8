package discovery

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// A table is what is known of a service's entries in the registry. It does no I/O and reads no clock.
type table struct {
	service string
	prefix  string        // of the service's keys
	keep    time.Duration // how long the good value of an entry outlives its being poisoned
	entries map[string]entry
	faulty  map[string]struct{} // keys of entries that are poisoned now
	keys    map[string][]string // of entries, by their address

	sorted  []Instance          // what instances returned last; never modified
	touched map[string]struct{} // addresses of which sorted may be wrong by now
}

// An entry is what is known of one key.
type entry struct {
	createRevision, modRevision int64

	instance Instance  // the last good value under this key since its creation; without an address if it never had one
	lease    int64     // of instance
	fault    error     // why the entry is poisoned now; nil if it is not
	until    time.Time // when instance runs out because of that
}

// A fault is what is wrong with one revision of an entry.
type fault struct {
	key      string
	revision int64
	err      error  // why the entry is poisoned
	kept     bool   // whether its last good value stands in
	mismatch string // what a value that can be used claims against its key
}

func newTable(service, prefix string, keep time.Duration) *table {
	return &table{
		service: service, prefix: prefix, keep: keep,
		entries: map[string]entry{}, faulty: map[string]struct{}{}, keys: map[string][]string{},
		sorted: []Instance{}, touched: map[string]struct{}{},
	}
}

// put applies an event that wrote kv. A nil fault is none.
func (t *table) put(kv *mvccpb.KeyValue, now time.Time) *fault {
	key := string(kv.Key)
	if t.entries[key].modRevision >= kv.ModRevision {
		return nil // seen, in a list or before a reconnect
	}
	return t.set(key, kv, now)
}

// delete applies an event that deleted key at a revision.
func (t *table) delete(key string, revision int64) {
	if t.entries[key].modRevision < revision {
		t.remove(key)
	}
}

func (t *table) remove(key string) {
	if _, ok := t.entries[key]; !ok {
		return
	}
	delete(t.entries, key)
	delete(t.faulty, key)
	addr := addrOf(key)
	t.touched[addr] = struct{}{}
	t.keys[addr] = slices.DeleteFunc(t.keys[addr], func(k string) bool { return k == key })
	if len(t.keys[addr]) == 0 {
		delete(t.keys, addr)
	}
}

// addrOf is the address that an instance would have that is registered as key.
func addrOf(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

// replace makes the table hold what a list has found and nothing else.
func (t *table) replace(kvs []*mvccpb.KeyValue, now time.Time) []fault {
	var faults []fault
	found := make(map[string]struct{}, len(kvs))
	for _, kv := range kvs {
		key := string(kv.Key)
		found[key] = struct{}{}
		if t.entries[key].modRevision == kv.ModRevision {
			continue
		}
		if f := t.set(key, kv, now); f != nil {
			faults = append(faults, *f)
		}
	}
	for key := range t.entries {
		if _, ok := found[key]; !ok {
			t.remove(key)
		}
	}
	return faults
}

// digest is what the table comes to.
func (t *table) digest() digest {
	d := digest{count: int64(len(t.entries))}
	for _, e := range t.entries {
		d.newest = max(d.newest, e.modRevision)
	}
	return d
}

func (t *table) set(key string, kv *mvccpb.KeyValue, now time.Time) *fault {
	old := t.entries[key]
	e := entry{createRevision: kv.CreateRevision, modRevision: kv.ModRevision, lease: kv.Lease}
	known := old.instance.Addr != "" && old.createRevision == kv.CreateRevision
	f := &fault{key: key, revision: kv.ModRevision}
	e.instance, f.mismatch, e.fault = decodeInstance(t.service, t.prefix, key, kv.Value)
	f.err = e.fault
	switch {
	case e.fault == nil:
		e.instance.CreateRevision, e.instance.ModRevision = kv.CreateRevision, kv.ModRevision
		e.instance.Registered = kv.ModRevision
		if known && old.lease == kv.Lease {
			e.instance.Registered = old.instance.Registered
		}
	case known:
		e.instance, e.lease, e.until = old.instance, old.lease, old.until
		if e.until.IsZero() {
			e.until = now.Add(t.keep)
		}
		f.kept = e.usable(now)
	}
	if _, ok := t.entries[key]; !ok {
		t.keys[addrOf(key)] = append(t.keys[addrOf(key)], key)
	}
	t.entries[key] = e
	t.touched[addrOf(key)] = struct{}{}
	if e.fault != nil {
		t.faulty[key] = struct{}{}
	} else {
		delete(t.faulty, key)
	}
	if f.err == nil && f.mismatch == "" {
		return nil
	}
	return f
}

// instances returns what a snapshot holds at now, and when the next poisoned entry's last good value runs out;
// zero if there is none. It costs a copy of the last one, and sorting what has changed since.
func (t *table) instances(now time.Time) ([]Instance, time.Time) {
	var next time.Time
	for key := range t.faulty {
		t.touched[addrOf(key)] = struct{}{} // what is kept of it runs out without another event
		e := t.entries[key]
		if e.usable(now) && (next.IsZero() || e.until.Before(next)) {
			next = e.until
		}
	}
	if len(t.touched) == 0 {
		return t.sorted, next
	}
	var changed []Instance
	for addr := range t.touched {
		for _, key := range t.keys[addr] {
			if e := t.entries[key]; e.usable(now) {
				changed = append(changed, e.instance)
			}
		}
	}
	t.sorted = splice(t.sorted, slices.Sorted(maps.Keys(t.touched)), SortUnique(changed))
	t.touched = map[string]struct{}{} // not cleared: after the first list it is as large as the service
	return t.sorted, next
}

// splice returns a copy of old in which changed has taken the place of what was at addrs. All are sorted, and
// changed is at no other address.
func splice(old []Instance, addrs []string, changed []Instance) []Instance {
	all := make([]Instance, 0, len(old)+len(changed))
	for _, addr := range addrs {
		i, found := slices.BinarySearchFunc(old, addr, func(in Instance, addr string) int {
			return strings.Compare(in.Addr, addr)
		})
		all = append(all, old[:i]...)
		if found {
			i++
		}
		old = old[i:]
		if len(changed) > 0 && changed[0].Addr == addr {
			all = append(all, changed[0])
			changed = changed[1:]
		}
	}
	return append(all, old...)
}

// poisoned returns the entries that cannot be used, sorted by key; nil if there are none.
func (t *table) poisoned() []Poisoned {
	var all []Poisoned
	for key := range t.faulty {
		e := t.entries[key]
		all = append(all, Poisoned{Key: key, Revision: e.modRevision, Fault: faultOf(e.fault)})
	}
	slices.SortFunc(all, func(a, b Poisoned) int { return strings.Compare(a.Key, b.Key) })
	return all
}

// faultOf is why an entry is poisoned, for where its key stands beside it.
func faultOf(err error) string {
	if d, ok := errors.AsType[*DecodeError](err); ok {
		err = d.Err
	}
	return err.Error()
}

func (e entry) usable(now time.Time) bool {
	return e.instance.Addr != "" && (e.until.IsZero() || now.Before(e.until))
}
