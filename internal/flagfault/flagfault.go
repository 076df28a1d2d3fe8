// Package flagfault decides how a wrong value of a flag is reported: in the words used for the faults of a configuration
// file.
package flagfault

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lbproxy/lbproxy/internal/number"
	"github.com/lbproxy/lbproxy/internal/strictyaml"
)

// Explain rewrites the error of a flag's value for people. It is for [cobra.Command.SetFlagErrorFunc].
func Explain(_ *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	flag, cause := invalid.GetFlag(), invalid.Unwrap()
	var numeral *strconv.NumError // what the standard library returns, and so do numeric flags
	switch {
	case flag.Value.Type() == "duration":
		cause = strictyaml.ErrDuration
	case errors.As(cause, &numeral), errors.Is(cause, number.ErrNotWhole):
		cause = whole(invalid.GetValue())
	default:
		return fmt.Errorf("--%s: %w", flag.Name, cause)
	}
	return fmt.Errorf("--%s: %w, got the text %q", flag.Name, cause, invalid.GetValue())
}

// whole says what is wrong with text as a whole number, or as a list of them.
func whole(text string) error {
	for n := range strings.SplitSeq(text, ",") {
		if _, err := number.Whole(n); errors.Is(err, number.ErrRange) {
			return err
		}
	}
	return number.ErrNotWhole
}
