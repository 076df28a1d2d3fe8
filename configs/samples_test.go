package configs_test

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/configs"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestSampleIsTheDefault(t *testing.T) {
	got, err := configs.Load("lbproxy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(configs.Default(), got); diff != "" {
		t.Errorf("-default +sample:\n%s", diff)
	}
}

func TestSampleExplainsEveryKey(t *testing.T) {
	sample := read(t, "lbproxy.yaml")
	for _, key := range keysOf(reflect.TypeFor[configs.Config]()) {
		if !regexp.MustCompile(`\b` + key + `:|(?m)^#   ` + key + ` `).MatchString(sample) {
			t.Errorf("key %s is not in the sample", key)
		}
	}
}

// keysOf returns the keys of a struct and of those within it.
func keysOf(t reflect.Type) []string {
	switch {
	case t.Kind() == reflect.Pointer, t.Kind() == reflect.Slice, t.Kind() == reflect.Map:
		return keysOf(t.Elem())
	case t.Kind() != reflect.Struct:
		return nil
	}
	var keys []string
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		keys = append(append(keys, name), keysOf(field.Type)...)
	}
	return keys
}

// Examples are comments without a space after the "#"; each must be right when it is uncommented.
func TestSampleExamples(t *testing.T) {
	lines := strings.Split(read(t, "lbproxy.yaml"), "\n")
	example := regexp.MustCompile(`^( *)#([^ ].*)$`)
	found := 0
	for i, line := range lines {
		if !example.MatchString(line) {
			continue
		}
		found++
		edited := append([]string{}, lines...)
		edited[i] = example.ReplaceAllString(line, "$1$2")
		got, err := configs.Parse("lbproxy.yaml", []byte(strings.Join(edited, "\n")))
		if err != nil {
			t.Errorf("line %d: %v", i+1, err)
			continue
		}
		// An example of a setting at its default changes what is listed, if nothing else.
		if cmp.Equal(configs.Default(), got) {
			t.Errorf("line %d: %s\nhas no effect", i+1, line)
		}
	}
	if found < 6 {
		t.Errorf("%d examples found, want 6 at least", found)
	}
}
