package terminal

import (
	"strconv"
	"strings"
	"unicode"
)

// Printable is text without anything that a terminal would obey: one line, possibly with tabs, and with all other
// unprintable characters escaped.
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
