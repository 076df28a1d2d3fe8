package test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The ways that docs/architecture.md describes lead through functions that there are, in the packages that it says.
func TestArchitectureNamesFunctions(t *testing.T) {
	row := regexp.MustCompile("(?m)^\\|[^|\n]*\\| (`[^|\n]+) \\| ([a-z0-9/]+) \\|$")
	named := 0
	declared := map[string]map[string]bool{} // functions by package
	for _, cells := range row.FindAllStringSubmatch(read(t, "../docs/architecture.md"), -1) {
		in := cells[2]
		if declared[in] == nil {
			declared[in] = functionsOf(t, "../"+in)
		}
		for name := range strings.FieldsSeq(cells[1]) {
			named++
			if name = strings.Trim(name, "`"); !declared[in][name] {
				t.Errorf("docs/architecture.md says that a call or a change meets %s in %s, which has no such function", name, in)
			}
		}
	}
	if named < 80 {
		t.Errorf("docs/architecture.md names only %d functions", named)
	}
}

var function = regexp.MustCompile(`(?m)^func (?:\(\w+ \*?(\w+)\) )?(\w+)\(`)

// functionsOf is the functions of a package, methods as Type.Name.
func functionsOf(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	functions := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, f := range function.FindAllStringSubmatch(read(t, file), -1) {
			functions[strings.TrimPrefix(f[1]+"."+f[2], ".")] = true
		}
	}
	return functions
}
