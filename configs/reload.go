package configs

import (
	"reflect"
	"strings"
)

// liveKeys are those whose change takes effect without a restart.
var liveKeys = map[string]bool{"services": true, "routes": true, "log.level": true}

// Reload returns the configuration that holds once next has been read in place of c: c with what can change
// live taken from next. Changed names the keys that differ and are live, restart those that differ and take
// effect after a restart only. Neither c nor next is modified.
func (c *Config) Reload(next *Config) (now *Config, changed, restart []string) {
	merged := *c
	walkDiff("", reflect.ValueOf(&merged).Elem(), reflect.ValueOf(next).Elem(), func(key string, old, new reflect.Value) {
		if !liveKeys[key] {
			restart = append(restart, key)
			return
		}
		changed = append(changed, key)
		old.Set(new)
	})
	return &merged, changed, restart
}

// walkDiff calls differs for every key in which a and b differ, as deep as there are structs in both.
func walkDiff(prefix string, a, b reflect.Value, differs func(key string, a, b reflect.Value)) {
	for field := range a.Type().Fields() {
		if !field.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		a, b := a.FieldByIndex(field.Index), b.FieldByIndex(field.Index)
		if a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil() {
			a, b = a.Elem(), b.Elem()
		}
		switch {
		case a.Kind() == reflect.Struct:
			walkDiff(prefix+name+".", a, b, differs)
		case !reflect.DeepEqual(a.Interface(), b.Interface()):
			differs(prefix+name, a, b)
		}
	}
}
