package dialect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/internal/number"
)

// LBProxy is the dialect of lbproxy itself: the key is <root>/<service>/[<version>/]<addr>, and the value is the JSON
// of the same and of the weight.
type LBProxy struct {
	Root string // what stands before /<service>/; empty or "/like/this"
}

type record struct {
	Name    string          `json:"name"`
	Addr    string          `json:"addr"`
	Version string          `json:"version"`
	Weight  json.RawMessage `json:"weight,omitempty"`
}

// Prefix implements [Dialect]. It ends in a slash, so that /user/ does not take in /user-admin/.
func (d LBProxy) Prefix(service string) string { return d.Root + "/" + service + "/" }

// Encode implements [Dialect].
func (d LBProxy) Encode(service string, in discovery.Instance) (key string, value []byte) {
	key = d.Prefix(service)
	if in.Version != "" {
		key += in.Version + "/"
	}
	key += in.Addr
	weight := json.RawMessage(strconv.Itoa(in.Weight))
	value, err := json.Marshal(record{Name: service, Addr: in.Addr, Version: in.Version, Weight: weight})
	if err != nil {
		panic(err) // strings and a number are JSON always
	}
	return key, value
}

// Decode implements [Dialect].
func (d LBProxy) Decode(service, key string, value []byte) (in discovery.Instance, mismatch string, err error) {
	version, addr, err := parseKey(d.Prefix(service), key)
	if err != nil {
		return discovery.Instance{}, "", &EntryError{key, err}
	}
	r, weight, err := parseValue(value)
	if err != nil {
		return discovery.Instance{}, "", &EntryError{key, err}
	}
	var differ []string
	for _, f := range []struct{ field, inKey, inValue string }{
		{"name", service, r.Name},
		{"version", version, r.Version},
		{"addr", addr, r.Addr},
	} {
		if f.inValue != "" && f.inValue != f.inKey {
			differ = append(differ, fmt.Sprintf("%s %q", f.field, f.inValue))
		}
	}
	in = discovery.Instance{Addr: addr, Version: version, Weight: weight, Key: key}
	return in, strings.Join(differ, ", "), nil
}

func parseKey(prefix, key string) (version, addr string, err error) {
	rest, ok := strings.CutPrefix(key, prefix)
	if !ok {
		return "", "", fmt.Errorf("key is not below %s", prefix)
	}
	addr = rest
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		version, addr = rest[:i], rest[i+1:]
		if version == "" {
			return "", "", errors.New("version in the key is empty; leave out its segment")
		}
	}
	if err := discovery.ValidateVersion(version); err != nil {
		return "", "", err
	}
	return version, addr, discovery.ValidateAddr(addr)
}

func parseValue(value []byte) (r record, weight int, err error) {
	if err := json.Unmarshal(value, &r); err != nil {
		return r, 0, fmt.Errorf("value is not the JSON of an instance: %w", err)
	}
	if bytes.Equal(bytes.TrimSpace(value), []byte("null")) {
		return r, 0, errors.New("value is null")
	}
	weight, err = decodeWeight(r.Weight)
	return r, weight, err
}

// decodeWeight reads the weight of an entry. Text is none, even if it is that of a number.
func decodeWeight(value json.RawMessage) (int, error) {
	switch {
	case value == nil || string(value) == "null":
		return discovery.DefaultWeight, nil
	case bytes.ContainsAny(value[:1], `"{[tf`):
		return 0, fmt.Errorf("weight: %w, got %s", number.ErrNotWhole, shorten(string(value)))
	}
	return ParseWeight(string(value))
}
