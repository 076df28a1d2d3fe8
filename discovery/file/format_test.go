package file_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/file"
)

func TestServicesFileFaults(t *testing.T) {
	for _, test := range []struct{ name, data, want string }{
		{"empty", "", `f.yaml: services: there are none; write "services: {}" if that is meant`},
		{"cut off", "services:\n  hello:\n", `f.yaml:2: services.hello: there are no instances; write "hello: []" if that is meant`},
		{"another form", "hello: []\n", `f.yaml: services: there are none; write "services: {}" if that is meant
f.yaml:1: hello: unknown key; known here are services`},
		{"all at once", `
services:
  "hello world": []
  hello:
    - {addr: "127.0.0.1:1", weight: 65536}
    - {addr: "127.0.0.1", version: "1 0", wieght: 1}
    - {addr: "127.0.0.1:1", weight: -1}
    - {weight: 1.5}
`, `f.yaml:3: services["hello world"]: service name "hello world" holds ' '; use letters, digits, '.', '_' and '-'
f.yaml:5: services.hello[0].weight: weight 65536 is out of range; use 0 (drained) to 65535
f.yaml:6: services.hello[1].wieght: unknown key; did you mean weight?
f.yaml:6: services.hello[1].addr: address "127.0.0.1" is not host:port
f.yaml:6: services.hello[1].version: version "1 0" holds ' '; use letters, digits, '.', '_' and '-'
f.yaml:7: services.hello[2].weight: weight -1 is out of range; use 0 (drained) to 65535
f.yaml:7: services.hello[2].addr: address "127.0.0.1:1" is listed twice, first in line 5; remove one
f.yaml:8: services.hello[3].weight: want a whole number, such as 10, got the number 1.5
f.yaml:8: services.hello[3].addr: address "" is not host:port`},
		{"syntax", "services:\n  hello: [\n", "f.yaml:2: not YAML: sequence end token ']' not found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := file.ParseInstances("f.yaml", []byte(test.data))
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// FuzzServicesFile: whatever is accepted holds only instances that can be used, each address once, in order.
func FuzzServicesFile(f *testing.F) {
	f.Add([]byte(helloFile(1)))
	f.Add([]byte("services: {a: [], b.c: [{addr: 'h:1', version: '1', weight: 0}, {addr: 'g:2'}]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		services, err := file.ParseInstances("f.yaml", data)
		if err != nil {
			return
		}
		for name, instances := range services {
			err := discovery.ValidateService(name)
			for _, in := range instances {
				err = errors.Join(err, discovery.ValidateAddr(in.Addr), discovery.ValidateVersion(in.Version), discovery.ValidateWeight(in.Weight))
			}
			if err != nil {
				t.Error(err)
			}
			if !slices.IsSortedFunc(instances, func(a, b discovery.Instance) int {
				if a.Addr == b.Addr {
					return 1
				}
				return strings.Compare(a.Addr, b.Addr)
			}) {
				t.Errorf("addresses are not sorted and unique: %v", instances)
			}
		}
	})
}

func BenchmarkServicesFile(b *testing.B) {
	var data strings.Builder
	data.WriteString("services:\n  hello:\n")
	for i := range 10_000 {
		fmt.Fprintf(&data, "    - {addr: \"10.0.%d.%d:1001\", version: \"1.0.0\", weight: 10}\n", i/250, i%250)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := file.ParseInstances("f.yaml", []byte(data.String())); err != nil {
			b.Fatal(err)
		}
	}
}
