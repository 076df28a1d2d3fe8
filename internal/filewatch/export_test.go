package filewatch

// For tests.
const (
	Settle    = settle
	SettleMax = settleMax
)

var Follow = follow
