package file

var (
	NewWithPoll    = newSource
	ParseInstances = parseInstances
)
