package logsample_test

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lbproxy/lbproxy/internal/logsample"
)

func TestTheFirstOfAMessageInAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.InfoLevel)
		log := zap.New(core, logsample.First(2, time.Second))
		burst := func() {
			for i := range 10 {
				log.With(zap.Int("i", i)).Info("again")
				log.Debug("not at this level")
			}
			log.Warn("again") // a different level is a different message
			log.Info("once")
		}
		burst()
		time.Sleep(time.Second - 1)
		burst()
		if got := logs.FilterMessage("again").FilterLevelExact(zapcore.InfoLevel).Len(); got != 2 {
			t.Errorf("%d of 20 within the interval are logged, want 2", got)
		}
		if got := logs.Len(); got != 2+2+2 {
			t.Errorf("%d are logged in all, want 6", got)
		}
		time.Sleep(time.Nanosecond)
		burst()
		if got := logs.Len(); got != 6+4 {
			t.Errorf("%d are logged by the next interval, want 10", got)
		}
	})
}

func TestItIsSmall(t *testing.T) {
	log := zap.NewNop()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	log = log.WithOptions(logsample.First(1, time.Minute))
	runtime.ReadMemStats(&after)
	log.Info("keep it alive")
	if got := after.TotalAlloc - before.TotalAlloc; got > 16<<10 {
		t.Errorf("it takes %d bytes", got)
	}
}
