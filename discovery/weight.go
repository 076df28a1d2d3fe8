package discovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lbproxy/lbproxy/internal/number"
)

// Weights an instance may have. One that names none has DefaultWeight.
const (
	DefaultWeight = 1
	MaxWeight     = 65535
)

// ParseWeight reads a weight, which may be written as any number that is a whole one, such as 10, 10.0 or 1e1.
func ParseWeight(text string) (int, error) {
	weight, err := number.Whole(text)
	switch {
	case errors.Is(err, number.ErrRange):
		return 0, errWeightRange(text)
	case err != nil:
		return 0, fmt.Errorf("weight: %w, got %q", err, shorten(text))
	}
	return weight, ValidateWeight(weight)
}

// decodeWeight reads the weight of a registry entry. Text is none, even if it is that of a number.
func decodeWeight(value json.RawMessage) (int, error) {
	switch {
	case value == nil || string(value) == "null":
		return DefaultWeight, nil
	case bytes.ContainsAny(value[:1], `"{[tf`):
		return 0, fmt.Errorf("weight: %w, got %s", number.ErrNotWhole, shorten(string(value)))
	}
	return ParseWeight(string(value))
}

// ValidateWeight reports why weight cannot be an instance's.
func ValidateWeight(weight int) error {
	if weight < 0 || weight > MaxWeight {
		return errWeightRange(fmt.Sprint(weight))
	}
	return nil
}

func errWeightRange(weight string) error {
	return fmt.Errorf("weight %s is out of range; use 0 (drained) to %d", shorten(weight), MaxWeight)
}

// shorten keeps what others wrote from flooding the log.
func shorten(text string) string {
	const most = 40
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}
