package retry_test

import (
	"testing"

	"github.com/lbproxy/lbproxy/proxy/retry"
)

func TestDecide(t *testing.T) {
	for _, tt := range []struct {
		name     string
		attempts int
		failure  retry.Failure
		want     retry.Decision
	}{
		{"the first, not begun", 1, retry.Failure{Replayable: true}, retry.Retry},
		{"the last but one", retry.MaxAttempts - 1, retry.Failure{Replayable: true}, retry.Retry},
		{"the last", retry.MaxAttempts, retry.Failure{Replayable: true}, retry.Fail},
		{"perhaps begun", 1, retry.Failure{Began: true, Replayable: true}, retry.Fail},
		{"answered", 1, retry.Failure{Answered: true, Replayable: true}, retry.Fail},
		{"answered, and said not to have begun", 2, retry.Failure{Answered: true, Replayable: true}, retry.Fail},
		{"more than is kept", 1, retry.Failure{}, retry.Fail},
		{"nothing speaks for it", retry.MaxAttempts, retry.Failure{Began: true, Answered: true}, retry.Fail},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := retry.Decide(tt.attempts, tt.failure); got != tt.want {
				t.Errorf("Decide(%d, %+v) = %d, want %d", tt.attempts, tt.failure, got, tt.want)
			}
		})
	}
}
