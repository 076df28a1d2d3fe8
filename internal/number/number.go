// Package number reads whole numbers however they are written: writers that know only floating point write ten as
// 10.0 or 1e1.
package number

import (
	"cmp"
	"errors"
	"regexp"
	"strconv"
	"strings"
)

var (
	// ErrNotWhole is for text that is no whole number.
	ErrNotWhole = errors.New("want a whole number, such as 10")
	// ErrRange is for a whole number that no int holds.
	ErrRange = errors.New("want a number of at most 18 digits")
)

var decimal = regexp.MustCompile(`^([+-]?[0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?$`)

const (
	maxExponent = 1 << 30 // beyond it sums would overflow
	maxZeros    = 18      // more digits than these no int has
)

// Whole returns the whole number that text is, exactly: no rounding makes one of what is none. It takes time in
// proportion to the text, whatever the exponent.
func Whole(text string) (int, error) {
	parts := decimal.FindStringSubmatch(text)
	if parts == nil {
		return 0, ErrNotWhole
	}
	whole, fraction := parts[1], parts[2]
	digits := strings.TrimRight(whole+fraction, "0")
	if strings.Trim(digits, "+-0") == "" {
		return 0, nil
	}
	exponent, _ := strconv.Atoi(cmp.Or(parts[3], "0")) // out of range, it is the greatest or the least
	zeros := max(-maxExponent, min(exponent, maxExponent)) + len(whole) - len(digits)
	switch {
	case zeros < 0:
		return 0, ErrNotWhole
	case zeros > maxZeros:
		return 0, ErrRange
	}
	n, err := strconv.Atoi(digits + strings.Repeat("0", zeros))
	if err != nil {
		return 0, ErrRange
	}
	return n, nil
}
