package terminal

import (
	"strconv"
	"strings"
	"unicode"
)

// Printable is text without what a terminal would obey: of one line, but for tabs, with all else that is not to be
// printed escaped.
func Printable(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r == '\t' || unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}
