package configs

import (
	"reflect"
	"strings"
)

// liveKeys are the keys whose changes take effect without a restart.
var liveKeys = map[string]bool{"services": true, "routes": true, "log.level": true}

// Reload returns the configuration after a reload of next over c: c with the live keys of next. Changed names the live
// keys that differ, restart the ones that differ and need a restart. Neither c nor next is modified.
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

// walkDiff calls differs for every key in which a and b differ, descending as long as both have structs.
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
