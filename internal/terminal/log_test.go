package terminal

import (
	"bytes"
	"errors"
	"regexp"
	"testing"
	"time"

	"go.uber.org/zap"
)

func TestLogForPeople(t *testing.T) {
	for _, test := range []struct {
		name string
		log  func(*zap.Logger)
		want string
	}{
		{"a message", func(l *zap.Logger) { l.Info("ready") }, "INFO   ready\n"},
		{
			"fields in their order, those of the logger first",
			func(l *zap.Logger) {
				l.With(zap.String("service", "hello")).Info("instances changed", zap.Int64("revision", 7), zap.Duration("age", time.Second))
			},
			"INFO   instances changed  service=hello  revision=7  age=1s\n",
		},
		{
			"what needs quotes has them, and what is empty is left out",
			func(l *zap.Logger) {
				l.Info("m", zap.String("a", ""), zap.String("b", "two words"), zap.String("c", `say "x"`))
			},
			`INFO   m  b="two words"  c="say \"x\""` + "\n",
		},
		{
			"a list", func(l *zap.Logger) { l.Warn("m", zap.Strings("keys", []string{"engine", "admin.address"})) },
			`WARN   m  keys=["engine","admin.address"]` + "\n",
		},
		{
			"an error is last and as it is",
			func(l *zap.Logger) {
				l.Warn("not ready", zap.Error(errors.New(`policy "rr" is unknown`)), zap.String("service", "hello"))
			},
			"WARN   not ready  service=hello  error: policy \"rr\" is unknown\n",
		},
		{
			"errors of several lines stand below",
			func(l *zap.Logger) {
				l.Error("wrong", zap.Error(errors.Join(errors.New(`f:1: engine: "warp"`), errors.New("f:2: listners"))), zap.Int("n", 2))
			},
			"ERROR  wrong  n=2\n  error:\n    f:1: engine: \"warp\"\n    f:2: listners\n",
		},
		{
			"nothing moves the cursor",
			func(l *zap.Logger) {
				l.Info("m\x1b[2J\n", zap.String("a", "\x1b"), zap.Error(errors.New("goodbye\r\x07\x1b[31m")), zap.String("b", "1\n\x1b2"))
			},
			`INFO   m\x1b[2J\n  a="\x1b"  error: goodbye\r\a\x1b[31m` + "\n  b:\n    1\n    \\x1b2\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b bytes.Buffer
			test.log(zap.New(NewLogCore(&b, zap.InfoLevel)))
			line := regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  `)
			if got := line.ReplaceAllString(b.String(), ""); got != test.want || !line.MatchString(b.String()) {
				t.Errorf("got\n%s\nwant the time and\n%s", &b, test.want)
			}
		})
	}
}

func TestLoggersDoNotShareFields(t *testing.T) {
	var b bytes.Buffer
	log := zap.New(NewLogCore(&b, zap.InfoLevel))
	log.With(zap.String("a", "1"))
	log.With(zap.String("b", "2")).With(zap.String("c", "3")).Info("m")
	if want := "m  b=2  c=3\n"; !bytes.HasSuffix(b.Bytes(), []byte(want)) {
		t.Errorf("got %q, want it to end with %q", &b, want)
	}
}
