package discovery

import (
	"fmt"
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

func TestTableEquals(t *testing.T) {
	tb := newTable("user", "/user/", time.Minute)
	same := []*mvccpb.KeyValue{kv("a:1", `{}`, 1, 1), kv("b:1", `{`, 2, 2)}
	tb.replace(same, time.Time{})
	for _, tc := range []struct {
		name string
		list []*mvccpb.KeyValue
		want bool
	}{
		{"the same, poisoned entries included", same, true},
		{"one missing", same[:1], false},
		{"one more", append(same[:2:2], kv("c:1", `{}`, 3, 3)), false},
		{"one changed", []*mvccpb.KeyValue{kv("a:1", `{}`, 1, 3), same[1]}, false},
		{"one replaced", []*mvccpb.KeyValue{same[0], kv("c:1", `{}`, 2, 2)}, false},
	} {
		if got := tb.equals(tc.list); got != tc.want {
			t.Errorf("%s: equals is %t, want %t", tc.name, got, tc.want)
		}
	}
}
