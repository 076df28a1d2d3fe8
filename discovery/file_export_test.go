package discovery

// For tests of the file source.
var (
	NewFileWithPoll = newFile
	ParseInstances  = parseInstances
)
