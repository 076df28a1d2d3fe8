package discovery

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

func kv(key, value string, created, modified int64) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: []byte("/user/" + key), Value: []byte(value), CreateRevision: created, ModRevision: modified,
	}
}

func TestTable(t *testing.T) {
	const keep = time.Minute
	start := time.Unix(1000, 0)
	tb := newTable("user", "/user/", keep)
	replace := func(kvs ...*mvccpb.KeyValue) func(time.Time) []string {
		return func(now time.Time) []string {
			var all []string
			for _, f := range tb.replace(kvs, now) {
				all = append(all, faultText(&f))
			}
			return all
		}
	}
	put := func(kv *mvccpb.KeyValue) func(time.Time) []string {
		return func(now time.Time) []string {
			if f := tb.put(kv, now); f != nil {
				return []string{faultText(f)}
			}
			return nil
		}
	}
	del := func(key string, revision int64) func(time.Time) []string {
		return func(time.Time) []string {
			tb.delete("/user/"+key, revision)
			return nil
		}
	}
	nothing := func(time.Time) []string { return nil }
	for _, step := range []struct {
		name   string
		at     time.Duration // since start
		do     func(time.Time) []string
		want   string        // the instances
		next   time.Duration // when the next kept value runs out, since start; 0 if none does
		faults string
	}{
		{"empty list", 0, replace(), "", 0, ""},
		{"list", 0, replace(kv("a:1", `{}`, 1, 1), kv("b:1", `{"weight":2}`, 2, 2)), "a:1=1@1 b:1=2@2", 0, ""},
		{"an event that the list knew", 0, put(kv("b:1", `{"weight":9}`, 2, 2)), "a:1=1@1 b:1=2@2", 0, ""},
		{"a put", 0, put(kv("b:1", `{"weight":3}`, 2, 3)), "a:1=1@1 b:1=3@3", 0, ""},
		{"a delete that the list knew", 0, del("b:1", 2), "a:1=1@1 b:1=3@3", 0, ""},
		{"a delete of nothing", 0, del("c:1", 4), "a:1=1@1 b:1=3@3", 0, ""},
		{"a mismatch", 0, put(kv("c:1", `{"name":"x"}`, 5, 5)), "a:1=1@1 b:1=3@3 c:1=1@5", 0, `c:1@5 mismatch`},

		{"poisoned, the good value is kept", 0, put(kv("a:1", `{`, 1, 6)), "a:1=1@1 b:1=3@3 c:1=1@5", keep, "a:1@6 poisoned kept"},
		{
			"poisoned again, not for longer", time.Second, put(kv("a:1", `[`, 1, 7)),
			"a:1=1@1 b:1=3@3 c:1=1@5", keep, "a:1@7 poisoned kept",
		},
		{
			"another poisoned later", 2 * time.Second, put(kv("b:1", ``, 2, 8)),
			"a:1=1@1 b:1=3@3 c:1=1@5", keep, "b:1@8 poisoned kept",
		},
		{"a moment before the first runs out", keep - 1, nothing, "a:1=1@1 b:1=3@3 c:1=1@5", keep, ""},
		{"the first runs out", keep, nothing, "b:1=3@3 c:1=1@5", keep + 2*time.Second, ""},
		{
			"poisoned once more, too late", keep, put(kv("a:1", `{{`, 1, 9)),
			"b:1=3@3 c:1=1@5", keep + 2*time.Second, "a:1@9 poisoned",
		},
		{"cured", keep, put(kv("a:1", `{"weight":4}`, 1, 10)), "a:1=4@10 b:1=3@3 c:1=1@5", keep + 2*time.Second, ""},
		{"the poisoned is deleted", keep, del("b:1", 11), "a:1=4@10 c:1=1@5", 0, ""},
		{"one that never was good", keep, put(kv("d:1", `{`, 12, 12)), "a:1=4@10 c:1=1@5", 0, "d:1@12 poisoned"},

		{
			"a list counts nothing twice", keep,
			replace(kv("a:1", `{"weight":4}`, 1, 10), kv("c:1", `{"name":"x"}`, 5, 5), kv("d:1", `{`, 12, 12)),
			"a:1=4@10 c:1=1@5", 0, "",
		},
		{
			"a list with a new registration, poisoned", keep,
			replace(kv("a:1", `{`, 13, 13), kv("c:1", `{`, 5, 14)),
			"c:1=1@5", 2 * keep, "a:1@13 poisoned, c:1@14 poisoned kept",
		},
		{
			"a list of a registry restored from a backup", keep,
			replace(kv("a:1", `{"weight":7}`, 1, 4)), "a:1=7@4", 0, "",
		},
	} {
		now := start.Add(step.at)
		if got := strings.Join(step.do(now), ", "); got != step.faults {
			t.Errorf("%s: faults are %q, want %q", step.name, got, step.faults)
		}
		instances, next := tb.instances(now)
		var all []string
		for _, in := range instances {
			all = append(all, fmt.Sprintf("%s=%d@%d", in.Addr, in.Weight, in.ModRevision))
		}
		if got := strings.Join(all, " "); got != step.want {
			t.Errorf("%s: instances are %q, want %q", step.name, got, step.want)
		}
		want := time.Time{}
		if step.next != 0 {
			want = start.Add(step.next)
		}
		if !next.Equal(want) {
			t.Errorf("%s: the next value runs out at %v, want %v", step.name, next, want)
		}
	}
}

// A registration goes on through changes of its value, and ends with its key or when another lease takes the key over.
func TestTableTellsRegistrationsApart(t *testing.T) {
	tb := newTable("user", "/user/", time.Minute)
	leased := func(kv *mvccpb.KeyValue, lease int64) *mvccpb.KeyValue {
		kv.Lease = lease
		return kv
	}
	for _, step := range []struct {
		what string
		kv   *mvccpb.KeyValue
		list bool // found by a list, not an event
		want int64
	}{
		{"created", leased(kv("a:1", `{}`, 3, 3), 7), false, 3},
		{"another weight", leased(kv("a:1", `{"weight":2}`, 3, 4), 7), false, 3},
		{"poisoned by someone without a lease", leased(kv("a:1", `{`, 3, 5), 0), false, 3},
		{"cured by its registrar", leased(kv("a:1", `{}`, 3, 6), 7), false, 3},
		{"taken over by the next process", leased(kv("a:1", `{}`, 3, 8), 9), false, 8},
		{"another weight, found by a list", leased(kv("a:1", `{"weight":2}`, 3, 9), 9), true, 8},
		{"taken over, found by a list", leased(kv("a:1", `{}`, 3, 12), 11), true, 12},
		{"deleted and created, found by a list", leased(kv("a:1", `{}`, 15, 16), 11), true, 16},
		{"a registry restored from a backup", leased(kv("a:1", `{}`, 1, 2), 11), true, 2},
	} {
		if step.list {
			tb.replace([]*mvccpb.KeyValue{step.kv}, time.Time{})
		} else {
			tb.put(step.kv, time.Time{})
		}
		if instances, _ := tb.instances(time.Time{}); len(instances) != 1 || instances[0].Registered != step.want {
			t.Errorf("%s: got %+v, want it registered since %d", step.what, instances, step.want)
		}
	}
}

func faultText(f *fault) string {
	s := fmt.Sprintf("%s@%d", strings.TrimPrefix(f.key, "/user/"), f.revision)
	if f.mismatch != "" {
		s += " mismatch"
	}
	if f.err != nil {
		s += " poisoned"
	}
	if f.kept {
		s += " kept"
	}
	return s
}

// What an audit compares is another after every change of the registry.
func TestTableDigest(t *testing.T) {
	tb := newTable("user", "/user/", time.Minute)
	same := []*mvccpb.KeyValue{kv("a:1", `{}`, 1, 1), kv("b:1", `{`, 2, 2)}
	tb.replace(same, time.Time{})
	now := tb.digest()
	if want := (digest{count: 2, newest: 2}); now != want {
		t.Errorf("digest is %+v, want %+v: poisoned entries count", now, want)
	}
	for _, tc := range []struct {
		name string
		list []*mvccpb.KeyValue
	}{
		{"a deletion of the newest", same[:1]},
		{"a deletion of another", same[1:]},
		{"a put", append(same[:2:2], kv("c:1", `{}`, 3, 3))},
		{"a change", []*mvccpb.KeyValue{kv("a:1", `{}`, 1, 3), same[1]}},
		{"a deletion and a put", []*mvccpb.KeyValue{same[0], kv("c:1", `{}`, 4, 4)}},
		{"a deletion and the same put again", []*mvccpb.KeyValue{kv("a:1", `{}`, 4, 4), same[1]}},
	} {
		tb.replace(tc.list, time.Time{})
		if got := tb.digest(); got == now {
			t.Errorf("%s leaves the digest as it was, %+v", tc.name, got)
		}
		tb.replace(same, time.Time{})
	}
}

// A table follows events by changing what it had; whatever came in whatever order, that is what one would make of
// its entries anew. What it returned before stays as it was.
func TestTableFollowsEveryChange(t *testing.T) {
	const keep = 10 * time.Second
	random := rand.New(rand.NewPCG(1, 2))
	tb := newTable("user", "/user/", keep)
	now, revision := time.Unix(1000, 0), int64(0)
	values := []string{`{}`, `{"weight":2}`, `{"weight":3}`, `{`}
	key := func() string { // of one address there are keys with and without versions
		return []string{"", "1/", "2/", "1/2/"}[random.IntN(4)] + fmt.Sprintf("h%d:1", random.IntN(8))
	}
	write := func() *mvccpb.KeyValue {
		k := key()
		revision++
		created := tb.entries["/user/"+k].createRevision
		if created == 0 || random.IntN(3) == 0 {
			created = revision
		}
		return kv(k, values[random.IntN(len(values))], created, revision)
	}
	var last, lastWas []Instance
	for range 20_000 {
		switch random.IntN(20) {
		case 0:
			listed := map[string]*mvccpb.KeyValue{}
			for range random.IntN(12) {
				kv := write()
				listed[string(kv.Key)] = kv
			}
			tb.replace(slices.Collect(maps.Values(listed)), now)
		case 1, 2, 3, 4, 5:
			revision++
			tb.delete("/user/"+key(), revision)
		case 6:
			now = now.Add(time.Duration(random.IntN(int(keep))))
		default:
			tb.put(write(), now)
		}
		if random.IntN(3) > 0 {
			continue // several changes may come before one snapshot
		}
		var want []Instance
		var wantNext time.Time
		poisoned := 0
		for _, e := range tb.entries {
			if e.fault != nil {
				poisoned++
			}
			if !e.usable(now) {
				continue
			}
			want = append(want, e.instance)
			if !e.until.IsZero() && (wantNext.IsZero() || e.until.Before(wantNext)) {
				wantNext = e.until
			}
		}
		got, next := tb.instances(now)
		if want = SortUnique(want); !slices.Equal(got, want) || !next.Equal(wantNext) {
			t.Fatalf("instances at %v are\n%+v until %v, want\n%+v until %v", now, got, next, want, wantNext)
		}
		if n := len(tb.poisoned()); n != poisoned {
			t.Fatalf("%d poisoned entries, want %d", n, poisoned)
		}
		if n := len(slices.Concat(slices.Collect(maps.Values(tb.keys))...)); n != len(tb.entries) {
			t.Fatalf("%d keys by address, want %d", n, len(tb.entries))
		}
		if !slices.Equal(last, lastWas) {
			t.Fatalf("an earlier snapshot has become\n%+v, it was\n%+v", last, lastWas)
		}
		last, lastWas = got, slices.Clone(got)
	}
}

// BenchmarkTableOneEvent is what a change of one of many instances costs until its snapshot.
func BenchmarkTableOneEvent(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tb := newTable("user", "/user/", time.Minute)
			var listed []*mvccpb.KeyValue
			for i := range n {
				listed = append(listed, kv(fmt.Sprintf("1.0.0/10.%d.%d.%d:1001", i>>16, i>>8&0xff, i&0xff), `{"weight":7}`, 1, 1))
			}
			now := time.Unix(1000, 0)
			tb.replace(listed, now)
			published, _ := tb.instances(now)
			b.ReportAllocs()
			for i := int64(2); b.Loop(); i++ {
				change := kv("", fmt.Sprintf(`{"weight":%d}`, i&1), 1, i)
				change.Key = listed[n/2].Key
				tb.put(change, now)
				instances, _ := tb.instances(now)
				if slices.Equal(instances, published) {
					b.Fatal("nothing has changed")
				}
				published = instances
			}
		})
	}
}
