package discovery

import "fmt"

// Weights an instance may have. One that names none has DefaultWeight.
const (
	DefaultWeight = 1
	MaxWeight     = 65535
)

// ErrWeightRange is what is wrong with a number that is no weight.
var ErrWeightRange = fmt.Errorf("out of range; use 0 (drained) to %d", MaxWeight)

// ValidateWeight reports why weight cannot be an instance's.
func ValidateWeight(weight int) error {
	if weight < 0 || weight > MaxWeight {
		return fmt.Errorf("weight %d is %w", weight, ErrWeightRange)
	}
	return nil
}
