package strictyaml

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// A Path names a place in a document, such as listeners[0].address. The empty path is the whole document.
type Path string

// Key is the place of a key in p.
func (p Path) Key(name string) Path {
	switch {
	case name == "" || strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && r != '-' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}):
		return Path(fmt.Sprintf("%s[%q]", p, name))
	case p == "":
		return Path(name)
	}
	return p + "." + Path(name)
}

// Index is the place of a list's element in p; the first is 0.
func (p Path) Index(i int) Path { return Path(fmt.Sprintf("%s[%d]", p, i)) }

// parent is the place that contains p; the whole document has none. It may be something that is not a place, if the last
// key contains a dot or a bracket.
func (p Path) parent() (Path, bool) {
	if p == "" {
		return "", false
	}
	return p[:max(0, strings.LastIndexAny(string(p), ".["))], true
}

// A Fault is one thing that is wrong with a document. Its text is "file:line: path: problem; cure", without the parts
// that are unknown.
type Fault struct {
	File    string
	Line    int // from 1; 0 if there is none
	Path    Path
	Problem string // with its cure
}

func (f *Fault) Error() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d", f.Line)
		}
		b.WriteString(": ")
	}
	if f.Path != "" {
		fmt.Fprintf(&b, "%s: ", f.Path)
	}
	b.WriteString(f.Problem)
	return b.String()
}

// Faults collects what is wrong with one document. The zero Faults is for values that come from no file.
type Faults struct {
	file  string
	lines map[Path]int      // of every place in the document
	lost  map[Path]struct{} // places whose value could not be decoded
	all   []*Fault
}

// Add notes that the value at a place is wrong, unless it could not be decoded in the first place, which is a fault
// already.
func (f *Faults) Add(at Path, format string, args ...any) {
	for p, within := at, true; within; p, within = p.parent() {
		if _, lost := f.lost[p]; lost {
			return
		}
	}
	f.add(f.line(at), at, format, args...)
}

// Check is Add for an error, if it is not nil.
func (f *Faults) Check(at Path, err error) {
	if err != nil {
		f.Add(at, "%v", err)
	}
}

func (f *Faults) add(line int, at Path, format string, args ...any) {
	f.all = append(f.all, &Fault{File: f.file, Line: line, Path: at, Problem: fmt.Sprintf(format, args...)})
}

func (f *Faults) lose(line int, at Path, format string, args ...any) {
	f.lost[at] = struct{}{}
	f.add(line, at, format, args...)
}

// line finds the line of a place, or of the nearest enclosing place that is in the document.
func (f *Faults) line(at Path) int {
	for p, within := at, true; within && p != ""; p, within = p.parent() {
		if line, ok := f.lines[p]; ok {
			return line
		}
	}
	return 0
}

// Line is the line of a place in the document, 0 if the document does not name it.
func (f *Faults) Line(at Path) int { return f.lines[at] }

// Err returns every fault in the order of lines, joined as by [errors.Join], or nil. Each is a *Fault.
func (f *Faults) Err() error {
	slices.SortStableFunc(f.all, func(a, b *Fault) int { return a.Line - b.Line })
	errs := make([]error, len(f.all))
	for i, fault := range f.all {
		errs[i] = fault
	}
	return errors.Join(errs...)
}

// suggest names the known key that was probably meant, or all of them.
func suggest(key string, known []string) string {
	best, bestDistance := "", 3
	for _, k := range known {
		if d := distance(key, k); d < bestDistance && d < len(k) {
			best, bestDistance = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %s?", best)
	}
	return "known here are " + strings.Join(known, ", ")
}

// distance is the smallest number of letters to insert, delete or replace to turn a into b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
