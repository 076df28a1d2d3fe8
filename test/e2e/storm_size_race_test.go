//go:build race

package e2e

// How large the storms are where the race detector makes everything slow.
const (
	stormStreams = 1_000
	stormCancels = 2_000
	stormUploads = 8
)
