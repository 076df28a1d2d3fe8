package registry

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/dialect"
	"github.com/lbproxy/lbproxy/discovery/etcd"
)

func kv(key, value string, created, modified int64) etcd.Entry {
	return etcd.Entry{Key: "/user/" + key, Value: []byte(value), CreateRevision: created, ModRevision: modified}
}

func TestTable(t *testing.T) {
	const keep = time.Minute
	start := time.Unix(1000, 0)
	tb := newTable("user", dialect.LBProxy{}, keep)
	put := func(entries ...etcd.Entry) func(time.Time) []string {
		return func(now time.Time) (faults []string) {
			for _, e := range entries {
				if f := tb.put(e, now); f != nil {
					faults = append(faults, faultText(f))
				}
			}
			return faults
		}
	}
	del := func(keys ...string) func(time.Time) []string {
		return func(time.Time) []string {
			for _, key := range keys {
				tb.delete("/user/" + key)
			}
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
		{"nothing", 0, nothing, "", 0, ""},
		{"two at once", 0, put(kv("a:1", `{}`, 1, 1), kv("b:1", `{"weight":2}`, 2, 2)), "a:1=1@1 b:1=2@2", 0, ""},
		{"a put", 0, put(kv("b:1", `{"weight":3}`, 2, 3)), "a:1=1@1 b:1=3@3", 0, ""},
		{"a delete of nothing", 0, del("c:1"), "a:1=1@1 b:1=3@3", 0, ""},
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
		{"the poisoned is deleted", keep, del("b:1"), "a:1=4@10 c:1=1@5", 0, ""},
		{"one that never was good", keep, put(kv("d:1", `{`, 12, 12)), "a:1=4@10 c:1=1@5", 0, "d:1@12 poisoned"},

		{"the one that never was good is deleted", keep, del("d:1"), "a:1=4@10 c:1=1@5", 0, ""},
		{
			"a new registration, poisoned", keep,
			put(kv("a:1", `{`, 13, 13), kv("c:1", `{`, 5, 14)),
			"c:1=1@5", 2 * keep, "a:1@13 poisoned, c:1@14 poisoned kept",
		},
		{"all are deleted", keep, del("a:1", "c:1"), "", 0, ""},
		{"revisions begin anew, as in a registry restored from a backup", keep, put(kv("a:1", `{"weight":7}`, 1, 4)), "a:1=7@4", 0, ""},
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
	tb := newTable("user", dialect.LBProxy{}, time.Minute)
	leased := func(e etcd.Entry, lease int64) etcd.Entry {
		e.Lease = lease
		return e
	}
	for _, step := range []struct {
		what  string
		entry etcd.Entry
		want  int64
	}{
		{"created", leased(kv("a:1", `{}`, 3, 3), 7), 3},
		{"another weight", leased(kv("a:1", `{"weight":2}`, 3, 4), 7), 3},
		{"poisoned by someone without a lease", leased(kv("a:1", `{`, 3, 5), 0), 3},
		{"cured by its registrar", leased(kv("a:1", `{}`, 3, 6), 7), 3},
		{"taken over by the next process", leased(kv("a:1", `{}`, 3, 8), 9), 8},
		{"another weight", leased(kv("a:1", `{"weight":2}`, 3, 9), 9), 8},
		{"taken over again", leased(kv("a:1", `{}`, 3, 12), 11), 12},
		{"deleted and created, seen as one change", leased(kv("a:1", `{}`, 15, 16), 11), 16},
	} {
		tb.put(step.entry, time.Time{})
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

// A table follows events by changing what it had; whatever came in whatever order, that is what one would make of
// its entries anew. What it returned before stays as it was.
func TestTableFollowsEveryChange(t *testing.T) {
	const keep = 10 * time.Second
	random := rand.New(rand.NewPCG(1, 2))
	tb := newTable("user", dialect.LBProxy{}, keep)
	now, revision := time.Unix(1000, 0), int64(0)
	values := []string{`{}`, `{"weight":2}`, `{"weight":3}`, `{`}
	key := func() string { // of one address there are keys with and without versions
		return []string{"", "1/", "2/", "1/2/"}[random.IntN(4)] + fmt.Sprintf("h%d:1", random.IntN(8))
	}
	write := func() etcd.Entry {
		k := key()
		revision++
		created := tb.entries["/user/"+k].createRevision
		if created == 0 || random.IntN(3) == 0 {
			created = revision
		}
		return kv(k, values[random.IntN(len(values))], created, revision)
	}
	var last, lastWas []discovery.Instance
	for range 20_000 {
		switch random.IntN(20) {
		case 0:
			listed := map[string]bool{} // as a list brings it
			for range random.IntN(12) {
				e := write()
				listed[e.Key] = true
				tb.put(e, now)
			}
			for _, key := range slices.Collect(maps.Keys(tb.entries)) {
				if !listed[key] {
					tb.delete(key)
				}
			}
		case 1, 2, 3, 4, 5:
			tb.delete("/user/" + key())
		case 6:
			now = now.Add(time.Duration(random.IntN(int(keep))))
		default:
			tb.put(write(), now)
		}
		if random.IntN(3) > 0 {
			continue // several changes may come before one snapshot
		}
		var want []discovery.Instance
		var wantNext time.Time
		poisoned, kept := 0, 0
		for _, e := range tb.entries {
			if e.fault != nil {
				poisoned++
			}
			if e.instance.Addr != "" {
				kept++
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
		if want = discovery.SortUnique(want); !slices.Equal(got, want) || !next.Equal(wantNext) {
			t.Fatalf("instances at %v are\n%+v until %v, want\n%+v until %v", now, got, next, want, wantNext)
		}
		if n := len(tb.poisoned()); n != poisoned {
			t.Fatalf("%d poisoned entries, want %d", n, poisoned)
		}
		if n := len(slices.Concat(slices.Collect(maps.Values(tb.keys))...)); n != kept {
			t.Fatalf("%d keys by address, want %d", n, kept)
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
			tb := newTable("user", dialect.LBProxy{}, time.Minute)
			var keys []string
			for i := range n {
				keys = append(keys, fmt.Sprintf("1.0.0/10.%d.%d.%d:1001", i>>16, i>>8&0xff, i&0xff))
			}
			now := time.Unix(1000, 0)
			for _, key := range keys {
				tb.put(kv(key, `{"weight":7}`, 1, 1), now)
			}
			published, _ := tb.instances(now)
			b.ReportAllocs()
			for i := int64(2); b.Loop(); i++ {
				tb.put(kv(keys[n/2], fmt.Sprintf(`{"weight":%d}`, i&1), 1, i), now)
				instances, _ := tb.instances(now)
				if slices.Equal(instances, published) {
					b.Fatal("nothing has changed")
				}
				published = instances
			}
		})
	}
}
