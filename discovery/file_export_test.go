package discovery

// For tests of the file source.
var (
	NewFileWithPoll = newFile
	FollowChanges   = followChanges
	ParseInstances  = parseInstances
)

const (
	FileSettle    = fileSettle
	FileSettleMax = fileSettleMax
)
