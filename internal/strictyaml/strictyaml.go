// Package strictyaml decodes a YAML file into a struct and reports everything that is wrong with it at once, each fault
// with its line and its place: unknown and repeated keys, values of the wrong type, bad durations.
//
// It decides the form of a document, by the yaml tags of the struct. Callers check what the values mean, and add faults
// to the same list.
//
// A document is plain data: one document of mappings, lists and scalars. Anchors, aliases, merge keys and tags
// are faults, and so are numbers where text is wanted, because 1.10 as a number is 1.1.
package strictyaml

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/lbproxy/lbproxy/internal/number"
)

// Decode decodes the YAML in data into the struct that into points to. What the document leaves out or leaves empty
// keeps its value; a list replaces the one that was there. Each fault begins with file.
//
// The struct may hold structs, maps with text as keys, slices, pointers to structs (which are allocated if the document
// names them, even if it leaves them empty), string, int, bool and [time.Duration] (written like 5s). Elements of maps
// and slices, and the targets of pointers, start from SetDefaults() where they have that method. The key of a field with
// the tag reserved:"why" is a fault with that text.
func Decode(file string, data []byte, into any) *Faults {
	f := &Faults{file: file, lines: map[Path]int{}, lost: map[Path]struct{}{}}
	if !utf8.Valid(data) {
		line := 1
		for l := range bytes.Lines(data) {
			if !utf8.Valid(l) {
				break
			}
			line++
		}
		f.lose(line, "", "the file is not in UTF-8; save it in that encoding")
		return f
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))                       // the parser would make it a part of the first key
	doc, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey()) // all duplicates are found below
	if err != nil {
		f.addSyntax(err)
		return f
	}
	d := decoder{f}
	seen := false
	for _, doc := range doc.Docs {
		switch {
		case doc.Body == nil:
		case seen:
			f.add(line(doc.Body), "", "a second document starts here; keep one in a file")
			return f
		default:
			seen = true
			d.value(doc.Body, reflect.ValueOf(into).Elem(), "")
		}
	}
	return f
}

func (f *Faults) addSyntax(err error) {
	var at yaml.Error
	if errors.As(err, &at) && at.GetToken() != nil {
		f.lose(at.GetToken().Position.Line, "", "not YAML: %s", at.GetMessage())
		return
	}
	f.lose(0, "", "not YAML: %v", err)
}

func line(n ast.Node) int {
	if t := n.GetToken(); t != nil {
		return t.Position.Line
	}
	return 0
}

type decoder struct{ *Faults }

// ErrDuration is for text that is not a duration.
var ErrDuration = errors.New("want a duration with its unit, such as 500ms, 5s or 10m")

var durationType = reflect.TypeFor[time.Duration]()

// value decodes n into v, which is at the place at.
func (d decoder) value(n ast.Node, v reflect.Value, at Path) {
	if _, taken := d.lines[at]; !taken {
		d.lines[at] = line(n)
	}
	if v.Kind() == reflect.Pointer {
		v.Set(newValue(v.Type().Elem()))
		v = v.Elem()
	}
	switch n.(type) {
	case nil, *ast.NullNode:
		return
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		d.lose(line(n), at, "anchors, aliases, merge keys and tags are not understood; write the value out")
		return
	}
	switch {
	case v.Type() == durationType:
		d.duration(n, v, at)
	case v.Kind() == reflect.Struct:
		d.structure(n, v, at)
	case v.Kind() == reflect.Map:
		d.mapping(n, v, at)
	case v.Kind() == reflect.Slice:
		d.list(n, v, at)
	default:
		d.scalar(n, v, at)
	}
}

// newValue returns a pointer to a new value of type t, with its defaults.
func newValue(t reflect.Type) reflect.Value {
	p := reflect.New(t)
	if d, ok := p.Interface().(interface{ SetDefaults() }); ok {
		d.SetDefaults()
	}
	return p
}

// entries calls each for every key of n, in order. What is not a key, or is repeated, becomes a fault.
func (d decoder) entries(n ast.Node, at Path, want string, each func(key string, keyLine int, value ast.Node)) {
	m, ok := n.(ast.MapNode)
	if !ok {
		d.lose(line(n), at, "want %s, got %s", want, describe(n))
		return
	}
	first := map[string]int{}
	for it := m.MapRange(); it.Next(); {
		key, isText := scalarText(it.Key())
		l := line(it.Key())
		if !isText {
			d.add(l, at, "a key must be plain text; anchors, aliases, merge keys and tags are not understood")
			continue
		}
		switch at := at.Key(key); {
		case strings.ContainsFunc(key, unicode.IsControl):
			d.add(l, at, "the key holds a control character")
		case first[key] > 0:
			d.add(l, at, "the key is there twice, first in line %d; remove one", first[key])
		default:
			first[key] = l
			d.lines[at] = l
			each(key, l, it.Value())
		}
	}
}

func (d decoder) structure(n ast.Node, v reflect.Value, at Path) {
	names, fields := fieldsOf(v.Type())
	d.entries(n, at, "the keys "+strings.Join(names, ", "), func(key string, l int, value ast.Node) {
		field, known := fields[key]
		switch why := field.Tag.Get("reserved"); {
		case !known:
			d.add(l, at.Key(key), "unknown key; %s", suggest(key, names))
		case why != "":
			d.add(l, at.Key(key), "%s", why)
		default:
			d.value(value, v.FieldByIndex(field.Index), at.Key(key))
		}
	})
}

// fieldsOf returns a struct's fields by key, and the keys that may be used, in the order of the fields.
func fieldsOf(t reflect.Type) (names []string, fields map[string]reflect.StructField) {
	fields = map[string]reflect.StructField{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		fields[name] = f
		if f.Tag.Get("reserved") == "" {
			names = append(names, name)
		}
	}
	return names, fields
}

func (d decoder) mapping(n ast.Node, v reflect.Value, at Path) {
	v.Set(reflect.MakeMap(v.Type()))
	d.entries(n, at, "keys with values", func(key string, _ int, value ast.Node) {
		elem := newValue(v.Type().Elem()).Elem()
		d.value(value, elem, at.Key(key))
		v.SetMapIndex(reflect.ValueOf(key), elem)
	})
}

func (d decoder) list(n ast.Node, v reflect.Value, at Path) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.lose(line(n), at, "want a list, got %s", describe(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, len(seq.Values)))
	for i, n := range seq.Values {
		elem := newValue(v.Type().Elem()).Elem()
		d.value(n, elem, at.Index(i))
		v.Set(reflect.Append(v, elem))
	}
}

func (d decoder) duration(n ast.Node, v reflect.Value, at Path) {
	text, _ := scalarText(n)
	t, err := time.ParseDuration(text)
	if err != nil {
		d.lose(line(n), at, "%v, got %s", ErrDuration, describe(n))
		return
	}
	v.SetInt(int64(t))
}

func (d decoder) scalar(n ast.Node, v reflect.Value, at Path) {
	text, _ := scalarText(n)
	switch v.Kind() {
	case reflect.String:
		switch n.(type) {
		case *ast.StringNode, *ast.LiteralNode:
			if strings.ContainsFunc(text, unicode.IsControl) {
				d.lose(line(n), at, "the text holds a line break or another control character; remove it")
				return
			}
			v.SetString(text)
		case ast.ScalarNode:
			d.lose(line(n), at, "want text, got %s; put it in quotes: %q", describe(n), text)
		default:
			d.lose(line(n), at, "want text, got %s", describe(n))
		}
	case reflect.Int:
		whole, err := number.Whole(text)
		if !isNumber(n) {
			err = number.ErrNotWhole
		}
		if err != nil {
			d.lose(line(n), at, "%v, got %s", err, describe(n))
			return
		}
		v.SetInt(int64(whole))
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			d.lose(line(n), at, "want true or false, got %s", describe(n))
			return
		}
		v.SetBool(b.Value)
	default:
		panic(fmt.Sprintf("strictyaml: no way to decode into %s", v.Type()))
	}
}

func isNumber(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		return true
	case *ast.StringNode:
		return n.GetToken().Type == token.StringType // 1e1 (YAML 1.2.2, 10.3.2), which the parser takes for text
	}
	return false
}

// scalarText returns a scalar as it was written, without quotes; false if n is not a scalar.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// describe says what n is, for the faults.
func describe(n ast.Node) string {
	text, ok := scalarText(n)
	switch n.(type) {
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return fmt.Sprintf("the text %q", text)
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "the number " + text
	}
	if ok {
		return text
	}
	return "keys with values"
}

// QuoteAll makes goccy's encoder quote all text: otherwise it writes some texts, such as ".inf", so that they read back
// as something else.
var QuoteAll = yaml.CustomMarshaler(func(s string) ([]byte, error) { return json.Marshal(s) })
