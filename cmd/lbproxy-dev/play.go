package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/lbproxy/lbproxy/internal/terminal"
	"github.com/lbproxy/lbproxy/picker"
)

const (
	onceCalls      = 1000
	lookInterval   = 500 * time.Millisecond
	looksPerReport = 10 // where the table cannot be drawn in place
)

// play runs a playground until ctx is done.
func play(ctx context.Context, o *options, stdout, stderr io.Writer) (err error) {
	shown := terminal.NewScreen(stdout)
	if shown != nil {
		stdout = shown
		if terminal.NewScreen(stderr) != nil {
			stderr = shown // the same terminal
		}
	}
	p, err := start(ctx, o, stdout, stderr)
	if err != nil && ctx.Err() != nil {
		return nil // asked to stop while it starts
	}
	if err != nil {
		return err
	}
	c, err := newCaller(p.proxy)
	if err != nil {
		return errors.Join(err, p.stop())
	}
	began := time.Now()
	if _, err = fmt.Fprint(stdout, p.banner(o.policy)); err == nil {
		err = p.show(ctx, c, o.rate, stdout, shown)
	}
	if shown != nil {
		shown.Keep()
	}
	lasted := time.Since(began).Round(time.Second)
	if err := errors.Join(err, c.close(), p.stop()); err != nil {
		return err
	}
	sent := c.counted()
	_, err = fmt.Fprintf(stdout, "\nSent %d calls in %v, %d failed. Everything has stopped.\n", sent.ended, lasted, sent.failed)
	return err
}

// show sends calls and draws the table until ctx is done.
func (p *playground) show(ctx context.Context, c *caller, rate int, stdout io.Writer, shown *terminal.Screen) error {
	ctx, cancel := context.WithCancel(ctx)
	var flowing sync.WaitGroup
	defer flowing.Wait()
	defer cancel()
	var counted tally
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	for looks := 0; ; looks++ {
		status, err := p.status(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		rows := counted.rows(time.Now(), status)
		if looks == 0 { // after the tally has begun, before the first call
			flowing.Go(func() { c.flow(ctx, rate) }) // ends by cancel
		}
		text := liveTable(rows, time.Since(counted.since), c.counted())
		switch {
		case shown != nil:
			err = shown.Draw(text)
		case looks%looksPerReport == 1:
			_, err = fmt.Fprint(stdout, text)
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-p.ended:
			return err
		case <-look.C:
		}
	}
}

// onceReport is what --once shows.
type onceReport struct {
	Policy     string   `json:"policy"`
	Calls      uint64   `json:"calls"`
	Failed     uint64   `json:"failed"`
	Match      bool     `json:"match"` // every call succeeded and all shares are what they should be
	Mismatches []string `json:"mismatches"`
	Instances  []row    `json:"instances"`
}

// playOnce runs a playground for a fixed number of calls. The error says how far their shares are from the weights.
func playOnce(ctx context.Context, o *options, stdout, stderr io.Writer) error {
	progress := io.Discard
	if terminal.Is(stderr) {
		progress = stderr
	}
	p, err := start(ctx, o, progress, stderr)
	if err != nil {
		return err
	}
	report, err := p.once(ctx)
	if err := errors.Join(err, p.stop()); err != nil {
		return err
	}
	if err := report.write(stdout, o.output); err != nil {
		return err
	}
	if !report.Match {
		return fmt.Errorf("the shares do not match the weights:\n  %s", strings.Join(report.Mismatches, "\n  "))
	}
	return nil
}

// once sends the calls and compares what the servers got with what they should have got.
func (p *playground) once(ctx context.Context) (*onceReport, error) {
	c, err := newCaller(p.proxy)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if err := c.send(ctx, onceCalls); err != nil {
		return nil, err
	}
	status, err := p.status(ctx)
	if err != nil {
		return nil, err
	}
	// Count what has arrived, not what lbproxy says it has sent: that is what is to be shown.
	arrived := map[string]uint64{}
	for _, s := range p.servers {
		arrived[s.addr] = s.calls.Load()
	}
	rows := newRows(status.Policy, status.Instances, func(in picker.EndpointStatus) uint64 { return arrived[in.Addr] })
	sent := c.counted()
	r := &onceReport{Policy: status.Policy, Calls: sent.ended, Failed: sent.failed, Instances: rows}
	r.Mismatches = append([]string{}, mismatches(status.Policy, rows)...) // never null in JSON
	if sent.failed > 0 {
		r.Mismatches = append(r.Mismatches, fmt.Sprintf("%d calls failed, the last with %v", sent.failed, sent.lastErr))
	}
	r.Match = len(r.Mismatches) == 0
	return r, nil
}

func (r *onceReport) write(w io.Writer, form string) error {
	if form == "json" {
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		return out.Encode(r)
	}
	var b strings.Builder
	writeTable(&b, r.Instances)
	fmt.Fprintf(&b, "\n%d calls by %s, %d failed.", r.Calls, r.Policy, r.Failed)
	if r.Match {
		fmt.Fprint(&b, " The shares match the weights.")
	}
	_, err := fmt.Fprintln(w, b.String())
	return err
}
