//go:build !race

package e2e

// How large the storms are.
const (
	stormStreams = 10_000
	stormCancels = 100_000
)

// raceDetector says that it runs, and takes most of the time.
const raceDetector = false
