package filewatch_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"

	"github.com/lbproxy/lbproxy/internal/filewatch"
)

func TestChangesSettle(t *testing.T) {
	const poll = 5 * time.Second
	for _, test := range []struct {
		name    string
		changes func(changed func()) // from time 0 on
		within  time.Duration
		want    []time.Duration // when the file is loaded
	}{
		{"one", func(changed func()) { changed() }, time.Second, []time.Duration{filewatch.Settle}},
		{"none", func(func()) {}, 2*poll + 1, []time.Duration{poll, 2 * poll}},
		{
			"a burst is one", func(changed func()) {
				for range 5 {
					changed()
					time.Sleep(filewatch.Settle / 2)
				}
			},
			time.Second,
			[]time.Duration{filewatch.Settle * 3},
		},
		{
			"without end", func(changed func()) {
				for range 30 {
					changed()
					time.Sleep(filewatch.Settle / 2)
				}
			},
			1600 * time.Millisecond,
			[]time.Duration{filewatch.SettleMax, 30*filewatch.Settle/2 + filewatch.Settle/2},
		},
		{
			"a poll leaves alone what is being written", func(changed func()) {
				time.Sleep(poll - filewatch.Settle/2)
				changed()
			},
			poll + time.Second,
			[]time.Duration{poll + filewatch.Settle/2},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.within)
				defer cancel()
				start := time.Now()
				changes := make(chan fsnotify.Event)
				go test.changes(func() { changes <- fsnotify.Event{} })
				var got []time.Duration
				filewatch.Follow(ctx, changes, nil, poll, func() { got = append(got, time.Since(start)) })
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("loaded at: -want +got:\n%s", diff)
				}
			})
		})
	}
}
