package dialect

import (
	"errors"
	"fmt"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/internal/number"
)

// ParseWeight reads a weight, which may be written as any number that is a whole one, such as 10, 10.0 or 1e1.
func ParseWeight(text string) (int, error) {
	weight, err := number.Whole(text)
	switch {
	case errors.Is(err, number.ErrRange):
		return 0, fmt.Errorf("weight %s is %w", shorten(text), discovery.ErrWeightRange)
	case err != nil:
		return 0, fmt.Errorf("weight: %w, got %q", err, shorten(text))
	}
	return weight, discovery.ValidateWeight(weight)
}

// shorten keeps what others wrote from flooding the log.
func shorten(text string) string {
	const most = 40
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}
