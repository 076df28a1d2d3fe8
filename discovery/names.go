package discovery

import (
	"fmt"
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
