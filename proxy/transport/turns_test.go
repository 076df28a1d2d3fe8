package transport

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Ten thousand attempts that each keep the processor busy for a millisecond.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const attempts = 10_000
		d := NewDialer()
		var mu sync.Mutex
		var busy, most, last int
		var all sync.WaitGroup
		for i := range attempts {
			all.Go(func() {
				end, err := d.Turn(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				defer end()
				mu.Lock()
				if i < last-maxTurns {
					t.Errorf("attempt %d begins behind attempt %d", i, last)
				}
				last = max(last, i)
				busy++
				most = max(most, busy)
				mu.Unlock()
				time.Sleep(time.Millisecond)
				mu.Lock()
				busy--
				mu.Unlock()
			})
			synctest.Wait() // they come in order
		}
		all.Wait()
		if most != maxTurns {
			t.Errorf("%d attempts at a time, want %d", most, maxTurns)
		}
	})
}

// Who waits for a host that is gone does not keep others from connecting.
func TestTurnsOfThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDialer()
		var ends []func()
		for range 3 * maxTurns {
			end, err := d.Turn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ends = append(ends, end)
		}
		began := time.Now()
		end, err := d.Turn(t.Context())
		if err != nil || time.Since(began) > turnTime {
			t.Errorf("a turn after %s, error %v", time.Since(began), err)
		}
		end()
		for _, end := range ends {
			end()
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range maxTurns {
			if _, err := d.Turn(ctx); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if _, err := d.Turn(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v", err)
		}
		time.Sleep(turnTime)
	})
}
