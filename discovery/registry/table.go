package registry

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/dialect"
	"github.com/lbproxy/lbproxy/discovery/etcd"
)

// A table is what is known of a service's entries in the registry. It does no I/O and reads no clock.
type table struct {
	service string
	dialect dialect.Dialect
	keep    time.Duration // how long the good value of an entry outlives its being poisoned
	entries map[string]entry
	faulty  map[string]struct{} // keys of entries that are poisoned now
	keys    map[string][]string // of entries, by the address of their instance

	sorted  []discovery.Instance // what instances returned last; never modified
	touched map[string]struct{}  // addresses of which sorted may be wrong by now
}

// An entry is what is known of one key.
type entry struct {
	createRevision, modRevision int64

	instance discovery.Instance // the last good value under this key since its creation; without an address if it never had one
	lease    int64              // of instance
	fault    error              // why the entry is poisoned now; nil if it is not
	until    time.Time          // when instance runs out because of that
}

// A fault is what is wrong with one revision of an entry.
type fault struct {
	key      string
	revision int64
	err      error  // why the entry is poisoned
	kept     bool   // whether its last good value stands in
	mismatch string // what a value that can be used claims against its key
}

func newTable(service string, d dialect.Dialect, keep time.Duration) *table {
	return &table{
		service: service, dialect: d, keep: keep,
		entries: map[string]entry{}, faulty: map[string]struct{}{}, keys: map[string][]string{},
		sorted: []discovery.Instance{}, touched: map[string]struct{}{},
	}
}

// put takes in that an entry was written. It returns what is wrong with it; nil if nothing is.
func (t *table) put(written etcd.Entry, now time.Time) *fault {
	key, old := written.Key, t.entries[written.Key]
	e := entry{createRevision: written.CreateRevision, modRevision: written.ModRevision, lease: written.Lease}
	known := old.instance.Addr != "" && old.createRevision == written.CreateRevision
	f := &fault{key: key, revision: written.ModRevision}
	e.instance, f.mismatch, e.fault = t.dialect.Decode(t.service, key, written.Value)
	f.err = e.fault
	switch {
	case e.fault == nil:
		e.instance.CreateRevision, e.instance.ModRevision = written.CreateRevision, written.ModRevision
		e.instance.Registered = written.ModRevision
		if known && old.lease == written.Lease {
			e.instance.Registered = old.instance.Registered
		}
	case known:
		e.instance, e.lease, e.until = old.instance, old.lease, old.until
		if e.until.IsZero() {
			e.until = now.Add(t.keep)
		}
		f.kept = e.usable(now)
	}
	t.move(key, old.instance.Addr, e.instance.Addr)
	t.entries[key] = e
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

// delete takes in that an entry is gone.
func (t *table) delete(key string) {
	t.move(key, t.entries[key].instance.Addr, "")
	delete(t.entries, key)
	delete(t.faulty, key)
}

// move notes that the instance under a key has changed, from one address to another or the same. "" is no instance.
func (t *table) move(key, from, to string) {
	if from != "" {
		t.touched[from] = struct{}{}
	}
	if from == to {
		return
	}
	if from != "" {
		t.keys[from] = slices.DeleteFunc(t.keys[from], func(k string) bool { return k == key })
		if len(t.keys[from]) == 0 {
			delete(t.keys, from)
		}
	}
	if to != "" {
		t.touched[to] = struct{}{}
		t.keys[to] = append(t.keys[to], key)
	}
}

// instances returns what a snapshot holds at now, and when the next poisoned entry's last good value runs out;
// zero if there is none. It costs a copy of the last one, and sorting what has changed since.
func (t *table) instances(now time.Time) ([]discovery.Instance, time.Time) {
	var next time.Time
	for key := range t.faulty {
		e := t.entries[key]
		if e.instance.Addr != "" {
			t.touched[e.instance.Addr] = struct{}{} // what is kept of it runs out without another event
		}
		if e.usable(now) && (next.IsZero() || e.until.Before(next)) {
			next = e.until
		}
	}
	if len(t.touched) == 0 {
		return t.sorted, next
	}
	var changed []discovery.Instance
	for addr := range t.touched {
		for _, key := range t.keys[addr] {
			if e := t.entries[key]; e.usable(now) {
				changed = append(changed, e.instance)
			}
		}
	}
	t.sorted = splice(t.sorted, slices.Sorted(maps.Keys(t.touched)), discovery.SortUnique(changed))
	t.touched = map[string]struct{}{} // not cleared: after the first list it is as large as the service
	return t.sorted, next
}

// splice returns a copy of old in which changed has taken the place of what was at addrs. All are sorted, and
// changed is at no other address.
func splice(old []discovery.Instance, addrs []string, changed []discovery.Instance) []discovery.Instance {
	all := make([]discovery.Instance, 0, len(old)+len(changed))
	for _, addr := range addrs {
		i, found := slices.BinarySearchFunc(old, addr, func(in discovery.Instance, addr string) int {
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
func (t *table) poisoned() []discovery.Poisoned {
	var all []discovery.Poisoned
	for key := range t.faulty {
		e := t.entries[key]
		all = append(all, discovery.Poisoned{Key: key, Revision: e.modRevision, Fault: faultOf(e.fault)})
	}
	slices.SortFunc(all, func(a, b discovery.Poisoned) int { return strings.Compare(a.Key, b.Key) })
	return all
}

// faultOf is why an entry is poisoned, for where its key stands beside it.
func faultOf(err error) string {
	if d, ok := errors.AsType[*dialect.EntryError](err); ok {
		err = d.Err
	}
	return err.Error()
}

func (e entry) usable(now time.Time) bool {
	return e.instance.Addr != "" && (e.until.IsZero() || now.Before(e.until))
}
