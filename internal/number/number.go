// Package number decides what is a whole number, however it is written: writers that know only floating point write ten
// as 10.0 or 1e1.
package number

import (
	"cmp"
	"errors"
	"regexp"
	"strconv"
	"strings"
)

var (
	// ErrNotWhole is for text that is not a whole number.
	ErrNotWhole = errors.New("want a whole number, such as 10")
	// ErrRange is for a whole number that does not fit an int.
	ErrRange = errors.New("want a number of at most 18 digits")
)

var decimal = regexp.MustCompile(`^([+-]?[0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?$`)

const (
	maxExponent = 1 << 30 // larger ones would overflow in sums
	maxZeros    = 18      // no int has more digits
)

// Whole returns the whole number that text is, exactly and without rounding. It takes time in proportion to the text's
// length, whatever the exponent.
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
	exponent, _ := strconv.Atoi(cmp.Or(parts[3], "0")) // out of range, it is the largest or smallest int
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
