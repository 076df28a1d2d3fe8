package discovery_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/discovery"
)

// The entry written last is the process that is there, whichever key it has, and whenever that key was first made.
func TestSortUniqueKeepsTheNewestWrite(t *testing.T) {
	got := discovery.SortUnique([]discovery.Instance{
		{Addr: "b:80", Key: "/s/b:80", CreateRevision: 5, ModRevision: 5},
		{Addr: "a:80", Key: "/s/1/a:80", CreateRevision: 3, ModRevision: 9},
		{Addr: "a:80", Key: "/s/2/a:80", CreateRevision: 4, ModRevision: 4},
		{Addr: "a:80", Key: "/s/3/a:80", CreateRevision: 8, ModRevision: 8},
		{Addr: "c:80", Key: "/s/2/c:80", CreateRevision: 6, ModRevision: 6},
		{Addr: "c:80", Key: "/s/1/c:80", CreateRevision: 6, ModRevision: 6}, // in one transaction
	})
	want := []discovery.Instance{
		{Addr: "a:80", Key: "/s/1/a:80", CreateRevision: 3, ModRevision: 9},
		{Addr: "b:80", Key: "/s/b:80", CreateRevision: 5, ModRevision: 5},
		{Addr: "c:80", Key: "/s/1/c:80", CreateRevision: 6, ModRevision: 6},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestValidateService(t *testing.T) {
	for name, ok := range map[string]bool{
		"user": true, "user-admin": true, "a.B_9": true, strings.Repeat("x", 253): true,
		"": false, strings.Repeat("x", 254): false, "a/b": false, "a b": false, "ü": false, "a+b": false,
	} {
		if err := discovery.ValidateService(name); (err == nil) != ok {
			t.Errorf("%q: got %v, want valid: %t", name, err, ok)
		}
	}
}
