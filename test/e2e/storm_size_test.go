//go:build !race

package e2e

// How large the storms are.
const (
	stormStreams = 10_000
	stormCancels = 100_000
	stormUploads = 30
)
