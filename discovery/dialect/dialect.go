// Package dialect decides how a service's instances stand in a registry of keys and values: one file for each form in
// which they do. It is pure: it reads and writes no registry, and knows no etcd.
//
// It leaves to package registry what becomes of an entry that cannot be read, and to package registrar who writes one.
package dialect

import (
	"fmt"

	"github.com/lbproxy/lbproxy/discovery"
)

// A Dialect is one form in which instances stand in a registry.
type Dialect interface {
	// Prefix is what the keys of a service's entries begin with, and no other service's.
	Prefix(service string) string
	// Decode makes an instance, without revisions, of an entry below a service's prefix. Where key and value disagree
	// the key wins, and mismatch says what the value claims. The error is an [*EntryError].
	Decode(service, key string, value []byte) (in discovery.Instance, mismatch string, err error)
	// Encode is the entry of an instance.
	Encode(service string, in discovery.Instance) (key string, value []byte)
}

// An EntryError says why a registry entry is poisoned: it is skipped, and its neighbours are not disturbed.
type EntryError struct {
	Key string
	Err error
}

func (e *EntryError) Error() string { return fmt.Sprintf("registry entry %s: %v", e.Key, e.Err) }
func (e *EntryError) Unwrap() error { return e.Err }
