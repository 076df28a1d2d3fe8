package terminal

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
)

// NewLogCore logs for people: time, level, message, the fields as key=value, and last the error. Texts of several lines
// follow below, indented. Control characters are escaped, because peers influence the text of errors.
func NewLogCore(w io.Writer, level zapcore.LevelEnabler) zapcore.Core {
	return zapcore.NewCore(logEncoder{zapcore.NewMapObjectEncoder()}, zapcore.Lock(zapcore.AddSync(w)), level)
}

// logEncoder holds the fields that all entries of a logger share.
type logEncoder struct{ *zapcore.MapObjectEncoder }

// Clone implements [zapcore.Encoder].
func (e logEncoder) Clone() zapcore.Encoder {
	clone := logEncoder{zapcore.NewMapObjectEncoder()}
	maps.Copy(clone.Fields, e.Fields)
	return clone
}

var buffers = buffer.NewPool()

// EncodeEntry implements [zapcore.Encoder].
func (e logEncoder) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	var l logLine
	l.addAll(e.Fields)
	for _, f := range fields {
		one := zapcore.NewMapObjectEncoder()
		f.AddTo(one)
		l.addAll(one.Fields)
	}
	if entry.Stack != "" {
		l.add("stack", entry.Stack)
	}
	b := buffers.Get()
	fmt.Fprintf(b, "%s  %-5s  %s%s%s%s\n", entry.Time.Format("2006-01-02 15:04:05.000"), entry.Level.CapitalString(),
		Printable(entry.Message), &l.fields, &l.errors, &l.below)
	return b, nil
}

// logLine is what follows the message.
type logLine struct{ fields, errors, below strings.Builder }

// addAll adds the fields of one map, whose order is lost.
func (l *logLine) addAll(fields map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		if key == "errorVerbose" { // zap's, for errors with a stack
			continue
		}
		switch value := fields[key].(type) {
		case string:
			l.add(key, value)
		case time.Time:
			l.add(key, value.Format(time.RFC3339Nano))
		case []any, map[string]any:
			l.addList(key, value)
		default:
			l.add(key, fmt.Sprint(value))
		}
	}
}

// addList adds a list or map as JSON, which needs no more quoting.
func (l *logLine) addList(key string, values any) {
	text, err := json.Marshal(values)
	if err != nil {
		text = fmt.Append(nil, values)
	}
	fmt.Fprintf(&l.fields, "  %s=%s", key, Printable(string(text)))
}

func (l *logLine) add(key, text string) {
	switch {
	case text == "": // nothing to write
	case strings.Contains(text, "\n"):
		fmt.Fprintf(&l.below, "\n  %s:", key)
		for line := range strings.Lines(text) {
			fmt.Fprintf(&l.below, "\n    %s", Printable(strings.TrimSuffix(line, "\n")))
		}
	case key == "error":
		fmt.Fprintf(&l.errors, "  error: %s", Printable(text))
	case strings.ContainsAny(text, " \"=") || Printable(text) != text:
		fmt.Fprintf(&l.fields, "  %s=%s", key, strconv.Quote(text))
	default:
		fmt.Fprintf(&l.fields, "  %s=%s", key, text)
	}
}
