package discovery

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const maxNameLen = 253

// ValidateService reports why name cannot be a service's: names are [A-Za-z0-9._-]{1,253}.
func ValidateService(name string) error {
	return validateName("service name", name)
}

// ValidateVersion reports why version cannot be an instance's. It may be empty; otherwise the rules of names
// hold, and "+", which semantic versions use.
func ValidateVersion(version string) error {
	if version == "" {
		return nil
	}
	return validateName("version", strings.ReplaceAll(version, "+", "-"))
}

func validateName(what, name string) error {
	if name == "" {
		return fmt.Errorf("%s is empty", what)
	}
	if len(name) > maxNameLen {
		return fmt.Errorf("%s of %d bytes is too long; at most %d", what, len(name), maxNameLen)
	}
	for _, c := range []byte(name) {
		if !isNameByte(c) {
			return fmt.Errorf("%s %q holds %q; use letters, digits, '.', '_' and '-'", what, name, c)
		}
	}
	return nil
}

func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
}

// record is an instance as it stands in etcd.
type record struct {
	Name    string          `json:"name"`
	Addr    string          `json:"addr"`
	Version string          `json:"version"`
	Weight  json.RawMessage `json:"weight,omitempty"`
}

// instanceKey is where an instance is registered: <root>/<service>/[<version>/]<addr>.
func instanceKey(root, service, version, addr string) string {
	if version == "" {
		return servicePrefix(root, service) + addr
	}
	return servicePrefix(root, service) + version + "/" + addr
}

// servicePrefix ends in a slash, so that /user/ does not take in /user-admin/.
func servicePrefix(root, service string) string {
	return root + "/" + service + "/"
}

// A DecodeError says why a registry entry is poisoned: it is skipped, and its neighbours are not disturbed.
type DecodeError struct {
	Key string
	Err error
}

func (e *DecodeError) Error() string { return fmt.Sprintf("registry entry %s: %v", e.Key, e.Err) }
func (e *DecodeError) Unwrap() error { return e.Err }

// parseKey takes the version and the address out of a key below a service's prefix.
func parseKey(prefix, key string) (version, addr string, err error) {
	rest, ok := strings.CutPrefix(key, prefix)
	if !ok {
		return "", "", &DecodeError{key, fmt.Errorf("key is not below %s", prefix)}
	}
	addr = rest
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		version, addr = rest[:i], rest[i+1:]
		if version == "" {
			return "", "", &DecodeError{key, errors.New("version in the key is empty; leave out its segment")}
		}
	}
	if err := ValidateVersion(version); err != nil {
		return "", "", &DecodeError{key, err}
	}
	if err := ValidateAddr(addr); err != nil {
		return "", "", &DecodeError{key, err}
	}
	return version, addr, nil
}

// decodeInstance makes an instance of a registry entry. Where key and value disagree the key wins, and
// mismatch says what the value claims. The error is a *DecodeError.
func decodeInstance(service, prefix, key string, value []byte) (in Instance, mismatch string, err error) {
	version, addr, err := parseKey(prefix, key)
	if err != nil {
		return Instance{}, "", err
	}
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return Instance{}, "", &DecodeError{key, fmt.Errorf("value is not the JSON of an instance: %w", err)}
	}
	if bytes.Equal(bytes.TrimSpace(value), []byte("null")) {
		return Instance{}, "", &DecodeError{key, errors.New("value is null")}
	}
	weight, err := decodeWeight(r.Weight)
	if err != nil {
		return Instance{}, "", &DecodeError{key, err}
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
	return Instance{Addr: addr, Version: version, Weight: weight, Key: key}, strings.Join(differ, ", "), nil
}

func encodeInstance(service string, in Instance) ([]byte, error) {
	weight := json.RawMessage(strconv.Itoa(in.Weight))
	return json.Marshal(record{Name: service, Addr: in.Addr, Version: in.Version, Weight: weight})
}

// SortUnique sorts instances by address and leaves one of each address: the one written last, because an address
// is one process, and what it left under another key is a lease that has yet to run out.
func SortUnique(instances []Instance) []Instance {
	slices.SortFunc(instances, func(a, b Instance) int {
		if c := strings.Compare(a.Addr, b.Addr); c != 0 {
			return c
		}
		if c := cmp.Compare(b.ModRevision, a.ModRevision); c != 0 {
			return c
		}
		return strings.Compare(a.Key, b.Key)
	})
	return slices.CompactFunc(instances, func(a, b Instance) bool { return a.Addr == b.Addr })
}
