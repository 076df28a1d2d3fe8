// Package retry decides whether a call whose attempt has failed gets another.
//
// It is pure: what is known of the call goes in, a decision comes out. It leaves to others to remember the attempts and
// to pick the next endpoint (package proxy), and to keep the request so that it can be sent again (the engines).
package retry

// MaxAttempts is how many attempts a call has at most.
const MaxAttempts = 3

// A Failure is what an engine knows of an attempt that has ended without the backend's status.
type Failure struct {
	Began      bool // the backend may have begun to process the call
	Answered   bool // its response has begun
	Replayable bool // the request can be sent again, as far as it has come
}

// A Decision is what becomes of a call after a failure.
type Decision uint8

// The decisions.
const (
	Fail  Decision = iota // the failure is the call's
	Retry                 // another attempt may succeed
)

// Decide decides after the failure of the last of so many attempts.
//
// The proxy does not know which methods may be repeated, so it repeats only what no backend has begun: gRFC A6 calls
// that transparent retries.
func Decide(attempts int, f Failure) Decision {
	if attempts >= MaxAttempts || f.Began || f.Answered || !f.Replayable {
		return Fail
	}
	return Retry
}
