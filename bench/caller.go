//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// caller makes calls on one connection until its phase is over or one fails.
type caller struct {
	conn    *grpc.ClientConn
	payload []byte
	tally   *tally
	phase   *phase
}

func (c *caller) call(ctx context.Context, s scenario) {
	var err error
	switch s.Kind {
	case unary:
		err = c.unary(ctx)
	case openLoop:
		err = c.openLoop(ctx, s.Rate)
	case pingPong:
		err = c.pingPong(ctx)
	case download:
		err = c.download(ctx)
	default:
		err = fmt.Errorf("no caller knows how to do %q", s.Kind)
	}
	if err != nil {
		c.tally.failed(err)
	}
}

func (c *caller) unary(ctx context.Context) error {
	var answer []byte
	for !c.phase.over.Load() {
		if err := c.one(ctx, time.Now(), &answer); err != nil {
			return err
		}
	}
	return nil
}

// one makes a unary call that was due at start.
func (c *caller) one(ctx context.Context, start time.Time, answer *[]byte) error {
	if err := c.conn.Invoke(ctx, echoMethod, &c.payload, answer); err != nil {
		return err
	}
	return c.received(start, *answer)
}

// received counts an answer, which must be what was sent.
func (c *caller) received(start time.Time, answer []byte) error {
	if !bytes.Equal(answer, c.payload) {
		return fmt.Errorf("an answer of %d bytes is not the message of %d that was sent", len(answer), len(c.payload))
	}
	c.tally.done(time.Since(start), len(answer))
	return nil
}

// openLoop starts calls when they are due. A slow call neither delays the next nor hides its own delay.
func (c *caller) openLoop(ctx context.Context, rate int) error {
	// Go's own timers are up to 1 ms late, half of what is to be measured.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("timer slack: %w", err)
	}
	var running sync.WaitGroup
	defer running.Wait()
	interval := time.Second / time.Duration(rate)
	for due := time.Now(); !c.phase.over.Load() && ctx.Err() == nil; due = due.Add(interval) {
		for left := time.Until(due); left > 0; left = time.Until(due) {
			span := unix.NsecToTimespec(left.Nanoseconds())
			unix.Nanosleep(&span, nil)
		}
		running.Go(func() {
			var answer []byte
			if err := c.one(ctx, due, &answer); err != nil {
				c.tally.failed(err)
			}
		})
	}
	return nil
}

func (c *caller) pingPong(ctx context.Context) error {
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, echoMethod)
	if err != nil {
		return err
	}
	var answer []byte
	for !c.phase.over.Load() {
		start := time.Now()
		// io.EOF says that the stream has ended; RecvMsg then says how.
		if err := stream.SendMsg(&c.payload); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := stream.RecvMsg(&answer); err != nil {
			return err
		}
		if err := c.received(start, answer); err != nil {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(&answer); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the stream did not end well: %w", err)
	}
	return nil
}

func (c *caller) download(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream, which has no end of its own
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, downloadMethod)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&c.payload); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var message []byte
	for last := time.Now(); !c.phase.over.Load(); {
		if err := stream.RecvMsg(&message); err != nil {
			return err
		}
		if err := c.received(last, message); err != nil {
			return err
		}
		last = time.Now()
	}
	return nil
}
