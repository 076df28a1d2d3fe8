// Package backoff decides how long to wait before trying again what has failed: twice as long each time up to a limit,
// each wait up to 20 % shorter or longer, so that those who failed together do not try again together.
//
// It leaves to the caller what counts as a failure, and what as a success after which waits are short again.
package backoff

import (
	"time"

	"github.com/cenkalti/backoff/v5"
)

// A Backoff is for one retried operation, and for one goroutine.
type Backoff struct{ waits backoff.ExponentialBackOff }

// New returns a backoff whose first wait is about first, and no wait much more than longest.
func New(first, longest time.Duration) *Backoff {
	return &Backoff{backoff.ExponentialBackOff{
		InitialInterval: first, MaxInterval: longest, Multiplier: 2, RandomizationFactor: 0.2,
	}}
}

// Next is how long to wait now.
func (b *Backoff) Next() time.Duration { return b.waits.NextBackOff() }

// Reset makes the next wait as short as the first.
func (b *Backoff) Reset() { b.waits.Reset() }
