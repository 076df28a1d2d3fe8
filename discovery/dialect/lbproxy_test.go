package dialect_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/dialect"
)

func TestLBProxyDecodes(t *testing.T) {
	d := dialect.LBProxy{Root: "/fleet"}
	for _, tc := range []struct {
		name, key, value string
		want             discovery.Instance
		mismatch         string
		err              string // a part of it
	}{
		{
			name:  "all fields",
			key:   "1.0.0/10.0.0.7:1001",
			value: `{"name":"user","addr":"10.0.0.7:1001","version":"1.0.0","weight":10}`,
			want:  discovery.Instance{Addr: "10.0.0.7:1001", Version: "1.0.0", Weight: 10},
		},
		{name: "two segments, no field", key: "db-1.example:80", value: `{}`, want: discovery.Instance{Addr: "db-1.example:80", Weight: 1}},
		{name: "IPv6", key: "[2001:db8::1]:80", value: `{}`, want: discovery.Instance{Addr: "[2001:db8::1]:80", Weight: 1}},
		{name: "drained", key: "a:80", value: `{"weight":0}`, want: discovery.Instance{Addr: "a:80", Weight: 0}},
		{name: "heaviest", key: "a:80", value: `{"weight":65535}`, want: discovery.Instance{Addr: "a:80", Weight: 65535}},
		{name: "weight of a writer that knows only doubles", key: "a:80", value: `{"weight":10.0}`, want: discovery.Instance{Addr: "a:80", Weight: 10}},
		{name: "weight with an exponent", key: "a:80", value: `{"weight":1e1}`, want: discovery.Instance{Addr: "a:80", Weight: 10}},
		{name: "drained by an exponent", key: "a:80", value: `{"weight":0e1000000000}`, want: discovery.Instance{Addr: "a:80", Weight: 0}},
		{name: "weight null is none", key: "a:80", value: `{"weight":null}`, want: discovery.Instance{Addr: "a:80", Weight: 1}},
		{name: "fields of others", key: "a:80", value: ` {"zone":"b","meta":{"x":[1]}} `, want: discovery.Instance{Addr: "a:80", Weight: 1}},
		{name: "build version", key: "1.2.0+7/a:80", value: `{}`, want: discovery.Instance{Addr: "a:80", Version: "1.2.0+7", Weight: 1}},
		{
			name: "the key wins", key: "2/a:80", value: `{"name":"admin","addr":"b:81","version":"1","weight":3}`,
			want: discovery.Instance{Addr: "a:80", Version: "2", Weight: 3}, mismatch: `name "admin", version "1", addr "b:81"`,
		},
		{
			name: "version only in the value", key: "a:80", value: `{"version":"1"}`,
			want: discovery.Instance{Addr: "a:80", Weight: 1}, mismatch: `version "1"`,
		},

		{name: "no value", key: "a:80", value: ``, err: "not the JSON of an instance"},
		{name: "no JSON", key: "a:80", value: `{"weight":1`, err: "not the JSON of an instance"},
		{name: "two values", key: "a:80", value: `{}{}`, err: "not the JSON of an instance"},
		{name: "another type", key: "a:80", value: `[]`, err: "not the JSON of an instance"},
		{name: "null", key: "a:80", value: ` null `, err: "null"},
		{name: "weight below 0", key: "a:80", value: `{"weight":-1}`, err: "weight -1 is out of range"},
		{name: "weight too big", key: "a:80", value: `{"weight":65536}`, err: "weight 65536 is out of range"},
		{name: "weight no integer", key: "a:80", value: `{"weight":10.5}`, err: `weight: want a whole number, such as 10, got "10.5"`},
		{name: "weight hardly no integer", key: "a:80", value: `{"weight":10.00000000000000000001}`, err: "weight: want a whole number"},
		{name: "weight next to nothing", key: "a:80", value: `{"weight":1e-400}`, err: "weight: want a whole number"},
		{name: "weight of a million digits", key: "a:80", value: `{"weight":1e1000000}`, err: "weight 1e1000000 is out of range"},
		{name: "weight beyond numbers", key: "a:80", value: `{"weight":1e999999999999999999999}`, err: "is out of range"},
		{name: "weight no number", key: "a:80", value: `{"weight":"1"}`, err: `weight: want a whole number, such as 10, got "1"`},
		{name: "weight a list", key: "a:80", value: `{"weight":[1]}`, err: "weight: want a whole number, such as 10, got [1]"},
		{name: "weight true", key: "a:80", value: `{"weight":true}`, err: "weight: want a whole number, such as 10, got true"},

		{name: "no address", key: "", value: `{}`, err: `address "" is not host:port`},
		{name: "no port", key: "10.0.0.7", value: `{}`, err: `address "10.0.0.7" is not host:port`},
		{name: "port 0", key: "10.0.0.7:0", value: `{}`, err: `port "0"`},
		{name: "port too big", key: "10.0.0.7:65536", value: `{}`, err: `port "65536"`},
		{name: "port by name", key: "10.0.0.7:http", value: `{}`, err: `port "http"`},
		{name: "no host", key: ":80", value: `{}`, err: "the host is missing; use one at which other machines reach this one, such as 10.0.0.7"},
		{name: "an address of every machine", key: "1.0.0/0.0.0.0:80", value: `{}`, err: "0.0.0.0 means every address of whichever machine dials it"},
		{name: "an address of every machine in the value alone", key: "a:80", value: `{"addr":"0.0.0.0:80"}`, want: discovery.Instance{Addr: "a:80", Weight: 1}, mismatch: `addr "0.0.0.0:80"`},
		{name: "host with a space", key: "a b:80", value: `{}`, err: `host "a b" holds ' '`},
		{name: "empty version", key: "/a:80", value: `{}`, err: "version in the key is empty"},
		{name: "version with a space", key: "1 0/a:80", value: `{}`, err: "version"},
		{name: "four segments", key: "1/a:80/b", value: `{}`, err: `port "80/b"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			key := "/fleet/user/" + tc.key
			got, mismatch, err := d.Decode("user", key, []byte(tc.value))
			if tc.err != "" {
				var poisoned *dialect.EntryError
				if !errors.As(err, &poisoned) || poisoned.Key != key || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got %v, want a EntryError of the key that says %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tc.want.Key = key
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("instance (-want +got):\n%s", diff)
			}
			if mismatch != tc.mismatch {
				t.Errorf("mismatch is %q, want %q", mismatch, tc.mismatch)
			}
		})
	}
}

// FuzzLBProxy: whatever stands in the registry either is an instance that can be dialled and that
// registers as itself again, or is an error that names its key.
func FuzzLBProxy(f *testing.F) {
	for _, seed := range [][2]string{
		{"10.0.0.7:1001", `{"name":"user","addr":"10.0.0.7:1001","weight":10}`},
		{"1.0.0/10.0.0.7:1001", `{"version":"1.0.0"}`},
		{"1.0.0+a/[fe80::1%eth0]:1", `{"weight":0,"addr":"b:80"}`},
		{"1.0.0/[fe80::1%\xa3]:1", `{}`}, // no text, which JSON would change
		{"1.0.0//a:80", `{}`},
		{"", ``},
		{"a:80", `null`},
		{"a:80", `{"weight":1e2}`},
		{"a:80", `{"name":"\ud800","weight":65536}`},
	} {
		f.Add(seed[0], []byte(seed[1]))
	}
	f.Fuzz(func(t *testing.T, rest string, value []byte) {
		d := dialect.LBProxy{Root: "/root"}
		key := "/root/user/" + rest
		in, _, err := d.Decode("user", key, value)
		if err != nil {
			var poisoned *dialect.EntryError
			if !errors.As(err, &poisoned) || poisoned.Key != key {
				t.Fatalf("got %v, want a EntryError of key %q", err, key)
			}
			if in != (discovery.Instance{}) {
				t.Fatalf("got %+v with error %v, want no instance", in, err)
			}
			return
		}
		if err := errors.Join(discovery.ValidateAddr(in.Addr), discovery.ValidateVersion(in.Version), discovery.ValidateWeight(in.Weight)); err != nil {
			t.Fatalf("%+v was let through: %v", in, err)
		}
		again, encoded := d.Encode("user", in)
		if again != key {
			t.Fatalf("key %q reads as that of %q", key, again)
		}
		same, mismatch, err := d.Decode("user", key, encoded)
		if err != nil || mismatch != "" || same != in {
			t.Fatalf("%s reads as %+v (mismatch %q, error %v), want %+v", encoded, same, mismatch, err, in)
		}
	})
}
