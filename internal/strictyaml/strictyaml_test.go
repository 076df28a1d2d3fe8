package strictyaml_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lbproxy/lbproxy/internal/strictyaml"
)

type document struct {
	Name  string          `yaml:"name"`
	Count int             `yaml:"count"`
	On    bool            `yaml:"on"`
	Wait  time.Duration   `yaml:"wait"`
	Items []item          `yaml:"items"`
	ByKey map[string]item `yaml:"by_key"`
	Inner inner           `yaml:"inner"`
	Opt   *inner          `yaml:"opt,omitempty"`
	_     struct{}        `yaml:"later" reserved:"not built yet; remove it"`
}

type item struct {
	Address string            `yaml:"address"`
	Weight  int               `yaml:"weight"`
	Labels  map[string]string `yaml:"labels,omitempty"`
}

func (i *item) SetDefaults() { i.Weight = 1 }

type inner struct {
	Names []string `yaml:"names"`
}

func (i *inner) SetDefaults() { i.Names = []string{"default"} }

func decode(data string) (document, *strictyaml.Faults) {
	d := document{Name: "default", Items: []item{{Address: "default"}}}
	f := strictyaml.Decode("f.yaml", []byte(data), &d)
	return d, f
}

func TestDecode(t *testing.T) {
	plain := document{Name: "default", Items: []item{{Address: "default"}}}
	full := document{
		Name: "x", Count: -3, On: true, Wait: 90 * time.Second,
		Items: []item{{"a", 1, nil}, {"b", 0, map[string]string{"x": "y"}}, {"", 1, nil}},
		ByKey: map[string]item{"k.1": {"c", 7, nil}, "2": {"", 1, nil}},
		Inner: inner{Names: []string{"1.10"}},
		Opt:   &inner{Names: []string{"default"}},
	}
	for _, test := range []struct {
		name, data string
		want       document
	}{
		{"empty", "", plain},
		{"only a comment", "# nothing\n---\n", plain},
		{"null keeps the default", "name:\nitems: ~\ninner: null\n", plain},
		{
			"everything",
			"name: x\ncount: -3\non: true\nwait: 1m30s\nitems:\n  - {address: a}\n  - address: \"b\"\n    weight: 0\n    labels: {x: y}\n  -\n" +
				"by_key:\n  k.1: {address: c, weight: 7}\n  2:\ninner: {names: ['1.10']}\nopt:\n", full,
		},
		{
			"whole numbers of a writer that knows only floating point",
			"count: 20.0\nby_key: {a: {weight: 1e1}, b: {weight: 0.5e+1}}\n",
			document{
				Name: "default", Count: 20, Items: plain.Items,
				ByKey: map[string]item{"a": {"", 10, nil}, "b": {"", 5, nil}},
			},
		},
		{
			"byte order mark, windows line ends", "\ufeffname: 'two words'\r\ncount: 2\r\n",
			document{Name: "two words", Count: 2, Items: plain.Items},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, faults := decode(test.data)
			if err := faults.Err(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	for _, test := range []struct{ name, data, want string }{
		{"all together, in the order of lines", `
nane: x
count: ten
on: yes
wait: 5
items:
  - adress: a
    weight: 1.5
  - just text
by_key: [1]
count: 2
inner: {names: {a: b}}
later: {}
opt: text
`, `
f.yaml:2: nane: unknown key; did you mean name?
f.yaml:3: count: want a whole number, such as 10, got the text "ten"
f.yaml:4: on: want true or false, got the text "yes"
f.yaml:5: wait: want a duration with its unit, such as 500ms, 5s or 10m, got the number 5
f.yaml:7: items[0].adress: unknown key; did you mean address?
f.yaml:8: items[0].weight: want a whole number, such as 10, got the number 1.5
f.yaml:9: items[1]: want the keys address, weight, labels, got the text "just text"
f.yaml:10: by_key: want keys with values, got a list
f.yaml:11: count: the key is there twice, first in line 3; remove one
f.yaml:12: inner.names: want a list, got keys with values
f.yaml:13: later: not built yet; remove it
f.yaml:14: opt: want the keys names, got the text "text"
`},
		{"unlike every key", "items: [{zzz: 1}]", "f.yaml:1: items[0].zzz: unknown key; known here are address, weight, labels"},
		{"number as text", "name: 1.10", `f.yaml:1: name: want text, got the number 1.10; put it in quotes: "1.10"`},
		{"word as text", "name: true", `f.yaml:1: name: want text, got true; put it in quotes: "true"`},
		{"list as text", "name: []", `f.yaml:1: name: want text, got a list`},
		{"text as number", "count: '1'", `f.yaml:1: count: want a whole number, such as 10, got the text "1"`},
		{"number too big", "count: 9999999999999999999", `f.yaml:1: count: want a number of at most 18 digits, got the number 9999999999999999999`},
		{"number with an exponent too big", "count: 1e300", `f.yaml:1: count: want a number of at most 18 digits, got the text "1e300"`},
		{"number beyond floating point", "count: 1e1000000000", `f.yaml:1: count: want a number of at most 18 digits, got the text "1e1000000000"`},
		{"several lines of text", "name: |\n  a\n  b\n", `f.yaml:1: name: the text holds a line break or another control character; remove it`},
		{"odd key", "by_key: {\"a b\": 1}", `f.yaml:1: by_key["a b"]: want the keys address, weight, labels, got the number 1`},
		{"control character in a key", "by_key: {\"a\\n\": {}}", `f.yaml:1: by_key["a\n"]: the key holds a control character`},
		{"anchor", "name: &a x\n", "f.yaml:1: name: anchors, aliases, merge keys and tags are not understood; write the value out"},
		{"alias", "name: x\ninner: *a\n", "f.yaml:2: inner: anchors, aliases, merge keys and tags are not understood; write the value out"},
		{"tag", "name: !!str 5\n", "f.yaml:1: name: anchors, aliases, merge keys and tags are not understood; write the value out"},
		{"merge", "by_key:\n  <<: {a: b}\n", "f.yaml:2: by_key: a key must be plain text; anchors, aliases, merge keys and tags are not understood"},
		{"not a mapping", "- a\n", "f.yaml:1: want the keys name, count, on, wait, items, by_key, inner, opt, got a list"},
		{"two documents", "name: a\n---\nname: b\n", "f.yaml:3: a second document starts here; keep one in a file"},
		{"syntax", "name: a\ncount: [1, 2\n", "f.yaml:2: not YAML: sequence end token ']' not found"},
		{"not text", "name: a\ncount: \xff\n", "f.yaml:2: the file is not in UTF-8; save it in that encoding"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, faults := decode(test.data)
			got := ""
			if err := faults.Err(); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(strings.TrimSpace(test.want), got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestFaultsOfMeaning(t *testing.T) {
	_, faults := decode("count: 0\nitems:\n  - address: a\n  - weight: x\n  - text\nby_key:\n  a.b:\n    weight: 1\n")
	var root strictyaml.Path
	faults.Add(root.Key("by_key").Key("a.b").Key("address"), "has none; set it")
	faults.Add(root.Key("items").Index(1).Key("weight"), "is 0; make it more")
	faults.Add(root.Key("items").Index(2).Key("address"), "has none; set it")
	faults.Add(root.Key("items").Index(0).Key("address"), "%q is bad", "a")
	faults.Add(root.Key("wait"), "is 0; make it more")
	faults.Add(root.Key("count"), "is 0; make it more")
	want := `f.yaml: wait: is 0; make it more
f.yaml:1: count: is 0; make it more
f.yaml:3: items[0].address: "a" is bad
f.yaml:4: items[1].weight: want a whole number, such as 10, got the text "x"
f.yaml:5: items[2]: want the keys address, weight, labels, got the text "text"
f.yaml:7: by_key["a.b"].address: has none; set it`
	if diff := cmp.Diff(want, faults.Err().Error()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	var fault *strictyaml.Fault
	if !errors.As(faults.Err(), &fault) || fault.Path != "wait" || fault.Line != 0 {
		t.Errorf("first fault = %+v, want the one of wait, without a line", fault)
	}
}

func TestFaultsWithoutAFile(t *testing.T) {
	var faults strictyaml.Faults
	if err := faults.Err(); err != nil {
		t.Errorf("error of no faults = %v, want none", err)
	}
	faults.Add("wait", "is 0; make it more")
	if got, want := faults.Err().Error(), "wait: is 0; make it more"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzDecode: whatever is accepted means the same after it has been written and read again.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "name: x\ncount: -3\non: true\nwait: 1m30s\nitems:\n  - {address: a}\n  - address: \"b\"\n    weight: 0\n    labels: {x: y}\n  -\n",
		"by_key:\n  k.1: {address: c, weight: 7}\n  2:\ninner: {names: ['1.10']}\nopt:\n", "a: &b [*b]", "<<: {}",
		"? [a]\n: b", "name: |\n  a\n", "%YAML 1.2\n---\nname: x", "name: !!str 5", "a: {b: [}", "by_key: {~: {}}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var first document
		faults := strictyaml.Decode("f.yaml", data, &first)
		if faults.Err() != nil {
			return
		}
		written, err := yaml.MarshalWithOptions(first, strictyaml.QuoteAll)
		if err != nil {
			t.Fatal(err)
		}
		var again document
		if err := strictyaml.Decode("again.yaml", written, &again).Err(); err != nil {
			t.Fatalf("%v\nin:\n%s", err, written)
		}
		if diff := cmp.Diff(first, again, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("after another round, -first +again:\n%s", diff)
		}
	})
}
